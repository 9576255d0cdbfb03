"""Random pipes with chains of nodes, and their results computed in Python.

Every node is a list of rows; filters take parameters of different types, some optional, some as text that the SQL
converts. The same seed makes the same project.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from random import Random
from typing import Any

SOURCE = """
columns:
  - {name: id, type: UInt32}
  - {name: at, type: DateTime}
  - {name: kind, type: LowCardinality(String)}
  - {name: units, type: Int32}
  - {name: flag, type: Bool}
engine: {sorting_key: [id]}
"""
COLUMNS = "id, at, kind, units, flag"
START = datetime(2026, 1, 1)
DEPTH = 1
KINDS = ("view", "sale", "rent")


@dataclass(frozen=True)
class Row:
    id: int
    at: datetime
    kind: str
    units: int
    flag: bool

    def values(self) -> str:
        return f"({self.id}, '{self.at}', '{self.kind}', {self.units}, {str(self.flag).lower()})"


def rows(random: Random, count: int) -> list[Row]:
    return [
        Row(n, START + timedelta(hours=random.randrange(240)), random.choice(KINDS), random.randrange(50), n % 3 == 0)
        for n in range(count)
    ]


@dataclass(frozen=True)
class Test:
    """A kind of condition: SQL with `{}` for the parameter's name, its value for a request, and the same in Python."""

    sql: str
    draw: Callable[[Random], Any]
    holds: Callable[[Row, Any], bool]


def _day(random: Random) -> str:
    return str(date(2026, 1, 1) + timedelta(days=random.randrange(11)))


def _moment(random: Random) -> str:
    return str(START + timedelta(hours=random.randrange(240)))


def _ids(random: Random) -> str:
    return ",".join(map(str, random.sample(range(60), 25)))


TESTS = (
    Test("units >= {{{{ Int32({}) }}}}", lambda r: r.randrange(50), lambda row, v: row.units >= v),
    Test("units < {{{{ Float64({}) }}}}", lambda r: r.randrange(50) + 0.5, lambda row, v: row.units < v),
    Test("kind = {{{{ String({}) }}}}", lambda r: r.choice(KINDS), lambda row, v: row.kind == v),
    Test("toDate(at) >= {{{{ Date({}) }}}}", _day, lambda row, v: str(row.at.date()) >= v),
    Test("at < {{{{ DateTime({}) }}}}", _moment, lambda row, v: str(row.at) < v),
    Test("id IN {{{{ Array({}, 'UInt32') }}}}", _ids, lambda row, v: str(row.id) in v.split(",")),
    Test("flag = {{{{ Boolean({}) }}}}", lambda r: r.choice(["true", "false"]), lambda row, v: str(row.flag).lower() == v),
    Test("units > {{{{ Decimal({}, 9, 2) }}}}", lambda r: f"{r.randrange(50)}.25", lambda row, v: row.units > float(v)),
    # The engine converts these texts, and evaluates sample values for them early.
    Test("toDate(at) >= toDate({{{{ String({}) }}}})", _day, lambda row, v: str(row.at.date()) >= v),
    Test("at >= {{{{ String({}) }}}}", _moment, lambda row, v: str(row.at) >= v),
    Test("units != toInt64({{{{ String({}) }}}})", lambda r: str(r.randrange(50)), lambda row, v: row.units != int(v)),
    Test("id NOT IN {{{{ Array({}) }}}}", _ids, lambda row, v: str(row.id) not in v.split(",")),
)  # fmt: skip


@dataclass
class Pipe:
    """A pipe in the making: its nodes' SQL, its parameters, and what it returns for a request."""

    name: str
    nodes: list[tuple[str, str]] = field(default_factory=list)
    parameters: dict[str, tuple[Test, bool]] = field(default_factory=dict)
    depth: int = 0
    rows: Callable[[Mapping[str, Any]], list[Row]] = lambda _: []

    @property
    def text(self) -> str:
        lines = ["nodes:"]
        for name, sql in self.nodes:
            lines += [f"  - name: {name}", "    sql: |", f"      {sql}"]
        return "\n".join(lines) + "\n"

    def request(self, random: Random) -> dict[str, Any]:
        return {
            name: test.draw(random)
            for name, (test, optional) in self.parameters.items()
            if not optional or random.random() < 0.6
        }


Rows = Callable[[Mapping[str, Any]], list[Row]]


class Maker:
    """Makes pipes that read the datasource `events` and pipes made before."""

    def __init__(self, random: Random, stored: list[Row]) -> None:
        self.random, self.stored = random, stored
        self.pipes: list[Pipe] = []
        self._names = 0

    def pipe(self) -> Pipe:
        pipe = Pipe(f"chain_{len(self.pipes)}")
        readable: list[tuple[str, Rows]] = [("events", lambda _: self.stored)]
        shallow = [p for p in self.pipes if p.depth < DEPTH]
        for other in self.random.sample(shallow, min(2, len(shallow))):
            pipe.depth = max(pipe.depth, other.depth + 1)
            readable.append((other.name, other.rows))
            pipe.parameters |= other.parameters
        for number in range(self.random.randrange(2, 4)):
            make = self.random.choice([self._filter, self._filter, self._union, self._join, self._choose])
            sql, found = make(pipe, readable)
            name = f"{pipe.name}_n{number}"
            pipe.nodes.append((name, sql))
            readable.append((name, found))
        # Only the nodes that the last one reads are needed.
        pipe.rows = readable[-1][1]
        self.pipes.append(pipe)
        return pipe

    def _pick(self, readable: list[tuple[str, Rows]]) -> tuple[str, Rows]:
        return self.random.choice(readable[-3:])

    def _parameter(self, pipe: Pipe, optional: bool) -> tuple[str, str, Test]:
        test = self.random.choice(TESTS)
        self._names += 1
        name = f"p{self._names}"
        pipe.parameters[name] = (test, optional)
        return name, test.sql.format(name), test

    def _filter(self, pipe: Pipe, readable: list[tuple[str, Rows]]) -> tuple[str, Rows]:
        source, found = self._pick(readable)
        name, sql, test = self._parameter(pipe, False)
        other, more, also = self._parameter(pipe, True)

        def kept(request: Mapping[str, Any]) -> list[Row]:
            passed = [r for r in found(request) if test.holds(r, request[name])]
            return passed if other not in request else [r for r in passed if also.holds(r, request[other])]

        text = f"SELECT {COLUMNS} FROM {source} WHERE {sql} {{% if defined({other}) %}} AND {more} {{% end %}}"
        return text, kept

    def _union(self, pipe: Pipe, readable: list[tuple[str, Rows]]) -> tuple[str, Rows]:
        (first, one), (second, two) = self._pick(readable), self._pick(readable)
        name, sql, test = self._parameter(pipe, False)
        text = f"SELECT {COLUMNS} FROM {first} WHERE {sql} UNION ALL SELECT {COLUMNS} FROM {second}"
        return text, lambda request: [r for r in one(request) if test.holds(r, request[name])] + two(request)

    def _join(self, pipe: Pipe, readable: list[tuple[str, Rows]]) -> tuple[str, Rows]:
        (first, one), (second, two) = self._pick(readable), self._pick(readable)
        name, sql, test = self._parameter(pipe, False)
        text = f"SELECT {COLUMNS} FROM {first} WHERE id IN (SELECT id FROM {second} WHERE {sql})"

        def kept(request: Mapping[str, Any]) -> list[Row]:
            ids = {r.id for r in two(request) if test.holds(r, request[name])}
            return [r for r in one(request) if r.id in ids]

        return text, kept

    def _choose(self, pipe: Pipe, readable: list[tuple[str, Rows]]) -> tuple[str, Rows]:
        (first, one), (second, two) = self._pick(readable), self._pick(readable)
        self._names += 1
        name = f"p{self._names}"
        pipe.parameters[name] = (Test("", lambda r: r.randrange(100), lambda *_: True), False)
        text = f"SELECT {COLUMNS} FROM {{% if Int32({name}) > 90 %}} {first} {{% else %}} {second} {{% end %}}"
        return text, lambda request: one(request) if request[name] > 90 else two(request)
