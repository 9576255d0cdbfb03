"""Random statements over the tables of `services.py`: whatever the grammar of ad-hoc SQL lets a curious tenant say.

Every statement either determines its rows or aggregates them, so that its answer is the same however the rows lie.
"""

from __future__ import annotations

import random

NUMBERS = ("i", "length(s)", "toInt64(s)", "intDiv(1000, i)", "toInt64OrZero(s)", "i % 7", "accurateCast(i, 'Int16')",
           "cityHash64(s) % 100", "multiIf(i > 5, i, -i)", "toUInt32(i)", "throwIf(i > 900)")  # fmt: skip
TEXTS = ("s", "upper(s)", "concat(s, '-')", "substring(s, 2)", "toString(i)", "replaceOne(s, 'secret', '')",
         "lower(s)", "if(i > 3, s, '')", "leftPad(s, 12)")  # fmt: skip
LITERALS = ("'7710007'", "'omega-secret-3'", "'yeti'", "''", "'%secret%'", "'77%'")
MORE = {
    "events": ("t.b", "nums[1]", "length(arr)", "n", "toInt64(d)", "toYear(day)", "ifNull(n, 0)", "toInt8(e)",
               "throwIf(empty(nums))", "toUnixTimestamp64Milli(at)", "toInt64(toString(j.shared))"),
    "latest": ("toUnixTimestamp64Milli(at)", "length(lc)"),
    "bare": (),
}  # fmt: skip
MORE["logs"] = MORE["events"]
COMPARISONS = ("=", "!=", "<", ">=")
AGGREGATES = ("sum", "max", "min", "uniqExact", "countIf", "maxOrNull", "avg", "quantileExact", "bitXor")


class Grammar:
    """Statements from a seed, always the same ones."""

    def __init__(self, seed: int) -> None:
        self.pick = random.Random(seed)

    def statement(self) -> str:
        table = self.pick.choice(tuple(MORE))
        source = self.source(table)
        kind = self.pick.randrange(7)
        if kind == 0:
            return f"SELECT count() AS c, {self.aggregate(table)} AS a FROM {source}{self.where(table)}"
        if kind == 1:
            by = self.pick.choice((self.text(), self.number(table)))
            return (
                f"SELECT {by} AS k, {self.aggregate(table)} AS a FROM {source}{self.where(table)} GROUP BY k"
                f"{self.pick.choice(('', ' HAVING count() > 1', ' HAVING a != 7'))}"
            )
        if kind == 2:
            return f"SELECT s, {self.number(table)} AS x FROM {source}{self.where(table)} ORDER BY s, i{self.limit()}"
        if kind == 3:
            inner = f"SELECT s, {self.number(table)} AS x FROM {source}{self.where(table)}"
            return f"SELECT count(), max(x) FROM ({inner}) WHERE {self.pick.choice(('x > 1', 's > x::String', '1'))}"
        if kind == 4:
            other = self.pick.choice(tuple(MORE))
            return (
                f"SELECT count(), max(a.i) FROM {table} AS a {self.pick.choice(('', 'LEFT ', 'FULL ', 'ANTI '))}JOIN "
                f"(SELECT s AS k, {self.number(other)} AS y FROM {other}{self.where(other)}) AS b ON a.s = b.k"
                f"{self.pick.choice(('', ' AND a.i >= b.y', ' AND throwIf(b.y > 900) = 0'))}"
            )
        if kind == 5:
            return (
                f"WITH w AS (SELECT * FROM {source}) SELECT s, sum({self.number(table)}) OVER (ORDER BY s, i) AS r "
                f"FROM w{self.where(table)} ORDER BY s, i{self.limit()}"
            )
        return (
            f"SELECT {self.text()} AS k FROM {source}{self.where(table)} "
            f"UNION DISTINCT SELECT {self.text()} AS k FROM {self.pick.choice(tuple(MORE))}"
        )

    def source(self, table: str) -> str:
        if table == "events" and self.pick.random() < 0.15:
            return "events SAMPLE 1 / 2"
        return f"{table} FINAL" if table == "latest" and self.pick.random() < 0.3 else table

    def where(self, table: str) -> str:
        if self.pick.random() < 0.2:
            return ""
        return f" {self.pick.choice(('WHERE', 'WHERE', 'PREWHERE'))} {self.condition(table, 2)}"

    def condition(self, table: str, depth: int) -> str:
        kind = self.pick.randrange(8 if depth else 4)
        if kind == 0:
            return f"{self.number(table)} {self.pick.choice(COMPARISONS)} {self.pick.choice((0, 3, 40, 2000))}"
        if kind == 1:
            return f"{self.text()} {self.pick.choice(COMPARISONS)} {self.pick.choice(LITERALS)}"
        if kind == 2:
            return f"{self.text()} LIKE {self.pick.choice(LITERALS)}"
        if kind == 3:
            return f"throwIf({self.text()} = {self.pick.choice(LITERALS)}) = 0"
        if kind == 4:
            return f"(s, i) IN (SELECT s, i FROM {table} WHERE {self.condition(table, 0)})"
        if kind == 5:
            return f"NOT ({self.condition(table, depth - 1)})"
        joined = self.pick.choice((" AND ", " OR "))
        return f"({self.condition(table, depth - 1)}{joined}{self.condition(table, depth - 1)})"

    def aggregate(self, table: str) -> str:
        name = self.pick.choice(AGGREGATES)
        return f"{name}({self.condition(table, 0) if name == 'countIf' else self.number(table)})"

    def number(self, table: str) -> str:
        return self.pick.choice((*NUMBERS, *MORE[table]))

    def text(self) -> str:
        return self.pick.choice(TEXTS)

    def limit(self) -> str:
        return self.pick.choice(("", " LIMIT 3", " LIMIT 2 OFFSET 5", " LIMIT 1 BY s"))
