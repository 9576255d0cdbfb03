"""What of a derived table can be compared: its key, and for each other column what merges leave unchanged."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from engine.schema import Column, Table, quote

UNSTABLE = re.compile(
    r"(any|anyLast|anyHeavy|first_value|last_value|argMin|argMax|groupArray\w*|groupConcat|quantiles?|median|"
    r"quantiles?TDigest\w*|medianTDigest\w*|topK\w*|approx_top\w*|simpleLinearRegression|stochastic\w+|sequence\w+|"
    r"windowFunnel|retention|deltaSum\w*|largestTriangle\w*|exponential\w+|kolmogorov\w*|entropy|sparkbar)"
    r"(If|Array|OrNull|OrDefault|Distinct|State|Merge)*"
)
"""Aggregate functions whose result depends on the order of rows, or is approximate by it."""
ADDITIVE = ("count", "countIf")
"""Aggregate functions whose result only grows with more rows; so does a sum of unsigned numbers."""
IDEMPOTENT = (
    "uniq",
    "uniqExact",
    "uniqCombined",
    "uniqCombined64",
    "uniqHLL12",
    "uniqTheta",
    "min",
    "max",
    "groupBitmap",
    "groupUniqArray",
    "groupBitAnd",
    "groupBitOr",
)
"""Aggregate functions that a row which is counted twice does not change: they hold a row, or they do not."""
_STATE = re.compile(r"(Simple)?AggregateFunction\((.*)\)")
_RULES = re.compile(r"\b(?:DELETE|WHERE|GROUP|SET|TO|RECOMPRESS)\b", re.IGNORECASE)
_NUMBER = re.compile(r"(?:Nullable\()?(U?)(?:Int\d+|Float\d+|Decimal)")
_TIME = "toDateTime64({}, 0) > {} + 3600"


@dataclass(frozen=True, slots=True)
class ComparableColumns:
    """A table as it is compared.

    `key` is SQL of the sorting key's values as bytes, which tell times apart that clocks show twice; `text` is SQL of
    the key for people. `values` are SQL aggregates over the rows of one key by column. Numbers of `additive` columns
    only grow with more rows; of two values of an `idempotent` one, merging them tells whether one holds the other.
    For a `floor` column it is only known that the table holds at least what the source gives. `skipped` are columns
    that are not compared, with the reason. `living` is a condition of rows that the table's TTL does not remove soon.
    """

    key: str
    values: tuple[tuple[str, str], ...]
    additive: frozenset[str]
    skipped: tuple[tuple[str, str], ...]
    living: str = "1"
    text: str = "''"
    zeros: bool = False
    """Whether a merge may remove keys whose values are all 0."""
    idempotent: frozenset[str] = frozenset()
    floor: frozenset[str] = frozenset()

    @property
    def growing(self) -> frozenset[str]:
        """Columns that tell a shortage whatever the source has lost."""
        return self.additive | self.idempotent

    @property
    def merges_again(self) -> bool:
        """Whether rows that are delivered twice change no value."""
        return all(name in self.idempotent for name, _ in self.values)


def comparable_columns(table: Table) -> ComparableColumns | str:
    """How a table is compared, or why it cannot be."""
    alive = living(table.ttl)
    if alive is None:
        return f"its TTL ({table.ttl}) is more than one moment"
    if " DESC" in table.sorting_key:
        return "its sorting key is in descending order"
    keys, columns = listed(table.sorting_key), columns_of(table)
    kind, _, arguments = table.engine.partition("(")
    named = {k.strip("`") for k in keys}
    others = [c for c in columns if c.name not in named]
    parts = _Parts([], set(), [], set())
    if kind == "MergeTree":
        _rows(parts, columns)
    elif kind in ("SummingMergeTree", "AggregatingMergeTree"):
        _merged(parts, others, _split(arguments.rstrip(")").strip("() ")) if kind[0] == "S" else None)
    elif kind == "ReplacingMergeTree":
        _replaced(parts, others, _split(arguments.rstrip(")")))
    elif kind in ("CollapsingMergeTree", "VersionedCollapsingMergeTree"):
        _collapsed(parts, others, _split(arguments.rstrip(")"))[0])
    else:
        return f"its engine is {kind}"
    key = ", ".join(keys)
    return ComparableColumns(
        f"formatRow('RowBinary', {key})" if keys else "''",
        tuple(parts.values),
        frozenset(parts.additive),
        tuple(parts.skipped),
        alive,
        f"toString(tuple({key}))" if keys else "''",
        kind == "SummingMergeTree",
        frozenset(parts.idempotent),
    )


def listed(key: str) -> list[str]:
    """The expressions of a sorting key, or of a list of columns."""
    inner = key.strip()
    keys = _split(inner[1:-1] if inner.startswith("(") and inner.endswith(")") else inner)
    return [k for k in keys if k not in ("", "tuple()")]


def columns_of(table: Table) -> list[Column]:
    """The columns of a table that its author knows and rows bring."""
    kinds = ("MATERIALIZED", "ALIAS", "EPHEMERAL")
    return [c for c in table.columns if not c.hidden and c.default_kind not in kinds]


@dataclass(slots=True)
class _Parts:
    values: list[tuple[str, str]]
    additive: set[str]
    skipped: list[tuple[str, str]]
    idempotent: set[str]


def _rows(parts: _Parts, columns: list[Column]) -> None:
    """Rows stay as they are: their number, and a sum of their hashes."""
    plain = [c for c in columns if not c.type.startswith("AggregateFunction(")]
    parts.skipped += [(c.name, "a state that is not merged") for c in columns if c not in plain]
    parts.values.append(("rows", "count()"))
    parts.additive.add("rows")
    # A hash of a null is null; as text it counts.
    texts = ", ".join(quote(c.name) for c in plain)
    parts.values.append(("contents", f"sum(cityHash64(formatRow('TSV', {texts})))"))


def _merged(parts: _Parts, columns: list[Column], summed: list[str] | None) -> None:
    """Columns that a merge sums up (those that are named, or all numbers), and states of aggregates."""
    named = {s.strip("` ") for s in summed or () if s.strip("` ")}
    for column in columns:
        name = quote(column.name)
        state = _STATE.fullmatch(column.type)
        number = _NUMBER.match(column.type)
        if state is not None:
            function = _split(state[2])[0]
            bare, _, parameters = function.partition("(")
            if UNSTABLE.fullmatch(bare):
                parts.skipped.append((column.name, f"{bare} depends on the order of rows"))
                continue
            if state[1]:
                made = f"{bare}({name})"
            else:
                made = f"{bare}Merge" + (f"({parameters}" if parameters else "") + f"({name})"
            made = f"arraySort({made})" if bare.startswith("groupUniqArray") else made
            parts.values.append((column.name, made))
            if bare in IDEMPOTENT:
                parts.idempotent.add(column.name)
            elif bare in ADDITIVE or (bare == "sum" and state[2].count("UInt") == 1):
                parts.additive.add(column.name)
        elif summed is not None and number is not None and (not named or column.name in named):
            parts.values.append((column.name, f"sum({name})"))
            if number[1]:
                parts.additive.add(column.name)
        else:
            parts.skipped.append((column.name, "a merge keeps the value of any row"))


def _replaced(parts: _Parts, columns: list[Column], arguments: list[str]) -> None:
    """Of rows of one key the one with the highest version stays."""
    version = arguments[0].strip("` ") if arguments and arguments[0] else None
    for column in columns:
        if column.name == version:
            parts.values.append((column.name, f"max({quote(column.name)})"))
            parts.idempotent.add(column.name)
        else:
            parts.skipped.append((column.name, "rows of equal version replace each other in any order"))


def _collapsed(parts: _Parts, columns: list[Column], sign: str) -> None:
    """Pairs of rows of opposite sign go away together: sums with the sign stay."""
    sign = sign.strip("` ")
    for column in columns:
        if column.name == sign:
            parts.values.append((column.name, f"sum({quote(sign)})"))
        elif _NUMBER.match(column.type) and not column.type.startswith("Nullable"):
            parts.values.append((column.name, f"sum({quote(column.name)} * {quote(sign)})"))
        else:
            parts.skipped.append((column.name, "only numbers can be summed with the sign"))


def living(ttl: str, now: str = "now()") -> str | None:
    """A condition of rows that a TTL leaves for an hour; None if it is more than one moment."""
    if not ttl:
        return "1"
    if _RULES.search(ttl) or len(_split(ttl)) != 1:
        return None
    return _TIME.format(ttl, now)


def _split(text: str) -> list[str]:
    """Parts of a list of expressions, by commas outside brackets and quotes."""
    return [part.strip() for part in _parts(text)]


def _parts(text: str) -> Iterator[str]:
    depth, start, quoted = 0, 0, ""
    for position, letter in enumerate(text):
        if quoted:
            quoted = "" if letter == quoted else quoted
        elif letter in "'`\"":
            quoted = letter
        elif letter in "([":
            depth += 1
        elif letter in ")]":
            depth -= 1
        elif letter == "," and depth == 0:
            yield text[start:position]
            start = position + 1
    yield text[start:]
