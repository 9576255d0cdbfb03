"""How the rows of a derived table are compared: by sorting key, with one aggregate for each other column.

The aggregates have the same value before and after the engine merges rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from engine.schema import Column, Table, quote

UNSTABLE = re.compile(
    r"(any|anyLast|anyHeavy|first_value|last_value|argMin|argMax|groupArray\w*|groupConcat|quantiles?|median|"
    r"quantiles?TDigest\w*|medianTDigest\w*|topK\w*|approx_top\w*|simpleLinearRegression|stochastic\w+|sequence\w+|"
    r"windowFunnel|retention|deltaSum\w*|largestTriangle\w*|exponential\w+|kolmogorov\w*|entropy|sparkbar)"
    r"(If|Array|OrNull|OrDefault|Distinct|State|Merge)*"
)
"""Aggregate functions whose result, exact or approximate, depends on the order of rows."""
ADDITIVE = ("count", "countIf")
"""Aggregate functions whose result only grows with more rows. So does a sum of unsigned numbers."""
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
"""Aggregate functions whose result does not change when a row is added a second time."""
_STATE = re.compile(r"(Simple)?AggregateFunction\((.*)\)")
_RULES = re.compile(r"\b(?:DELETE|WHERE|GROUP|SET|TO|RECOMPRESS)\b", re.IGNORECASE)
"""Keywords of TTLs that do more than remove rows at a certain time."""
_NUMBER = re.compile(r"(?:Nullable\()?(U?)(?:Int\d+|Float\d+|Decimal)")
_EXPIRES_LATER = "toDateTime64({}, 0) > {} + 3600"
"""SQL condition: a TTL expression is more than an hour after a moment."""


@dataclass(frozen=True, slots=True)
class ComparableColumns:
    """The SQL with which a table is compared."""

    key: str
    """The sorting key's values as bytes, which distinguish local times that occur twice."""
    values: tuple[tuple[str, str], ...]
    """Columns with the aggregate over the rows of one key."""
    additive: frozenset[str]
    """Columns whose value is a number that only grows with more rows."""
    skipped: tuple[tuple[str, str], ...]
    """Columns that are not compared, with the reason."""
    living: str = "1"
    """A condition: the table's TTL does not remove the row soon."""
    text: str = "''"
    """The key as text, for messages."""
    zeros: bool = False
    """Whether a merge may remove keys whose values are all 0."""
    idempotent: frozenset[str] = frozenset()
    """Columns whose values, when two of them are merged, show whether one contains the other."""
    floor: frozenset[str] = frozenset()
    """Columns for which the source only yields a lower limit."""

    @property
    def growing(self) -> frozenset[str]:
        """Columns that can prove missing rows even if the source has lost rows."""
        return self.additive | self.idempotent

    @property
    def merges_again(self) -> bool:
        """Whether rows can be delivered twice without changing any value."""
        return all(name in self.idempotent for name, _ in self.values)


@dataclass(slots=True)
class _Classified:
    """The columns of a table, while they are classified."""

    values: list[tuple[str, str]] = field(default_factory=list)
    """Columns with the aggregate over the rows of one key."""
    additive: set[str] = field(default_factory=set)
    """Columns whose value only grows with more rows."""
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """Columns that are not compared, with the reason."""
    idempotent: set[str] = field(default_factory=set)
    """Columns that do not change if a row is added twice."""


def comparable_columns(table: Table) -> ComparableColumns | str:
    """How a table is compared, or the reason why it cannot be."""
    alive = living(table.ttl)
    if alive is None:
        return f"its TTL ({table.ttl}) is more than a single expression"
    if " DESC" in table.sorting_key:
        return "its sorting key is in descending order"
    engine = table.engine.partition("(")[0]
    classified = _classify(table)
    if classified is None:
        return f"its engine is {engine}"
    keys = listed(table.sorting_key)
    key = ", ".join(keys)
    return ComparableColumns(
        f"formatRow('RowBinary', {key})" if keys else "''",
        tuple(classified.values),
        frozenset(classified.additive),
        tuple(classified.skipped),
        alive,
        f"toString(tuple({key}))" if keys else "''",
        engine == "SummingMergeTree",
        frozenset(classified.idempotent),
    )


def _classify(table: Table) -> _Classified | None:
    """Classify the columns by what the table's engine does when it merges rows; None for any other engine."""
    engine, _, arguments = table.engine.partition("(")
    columns = columns_of(table)
    keys = {k.strip("`") for k in listed(table.sorting_key)}
    others = [c for c in columns if c.name not in keys]
    classified = _Classified()
    if engine == "MergeTree":
        _classify_plain(classified, columns)
    elif engine == "SummingMergeTree":
        _classify_merged(classified, others, _split(arguments.rstrip(")").strip("() ")))
    elif engine == "AggregatingMergeTree":
        _classify_merged(classified, others, None)
    elif engine == "ReplacingMergeTree":
        _classify_replaced(classified, others, _split(arguments.rstrip(")")))
    elif engine in ("CollapsingMergeTree", "VersionedCollapsingMergeTree"):
        _classify_collapsed(classified, others, _split(arguments.rstrip(")"))[0])
    else:
        return None
    return classified


def listed(key: str) -> list[str]:
    """The expressions of a sorting key, or of a list of columns."""
    inner = key.strip()
    keys = _split(inner[1:-1] if inner.startswith("(") and inner.endswith(")") else inner)
    return [k for k in keys if k not in ("", "tuple()")]


def columns_of(table: Table) -> list[Column]:
    """The columns of a table that its file declares and that rows contain."""
    computed = ("MATERIALIZED", "ALIAS", "EPHEMERAL")
    return [c for c in table.columns if not c.hidden and c.default_kind not in computed]


def _classify_plain(classified: _Classified, columns: list[Column]) -> None:
    """MergeTree keeps rows unchanged: compare their number, and a sum of their hashes."""
    hashed = [c for c in columns if not c.type.startswith("AggregateFunction(")]
    classified.skipped += [(c.name, "a state that is not merged") for c in columns if c not in hashed]
    classified.values.append(("rows", "count()"))
    classified.additive.add("rows")
    # A hash of NULL is NULL, which aggregates ignore, so NULL is hashed as a string.
    texts = ", ".join(quote(c.name) for c in hashed)
    classified.values.append(("contents", f"sum(cityHash64(formatRow('TSV', {texts})))"))


def _classify_merged(classified: _Classified, columns: list[Column], summed: list[str] | None) -> None:
    """Aggregate states are merged. `summed` are the columns that SummingMergeTree sums up; if empty, all numeric
    columns.
    """
    named = {s.strip("` ") for s in summed or () if s.strip("` ")}
    for column in columns:
        state = _STATE.fullmatch(column.type)
        number = _NUMBER.match(column.type)
        if state is not None:
            _classify_state(classified, column, state)
        elif summed is not None and number is not None and (not named or column.name in named):
            classified.values.append((column.name, f"sum({quote(column.name)})"))
            if number[1]:
                classified.additive.add(column.name)
        else:
            classified.skipped.append((column.name, "a merge keeps the value of an arbitrary row"))


def _classify_state(classified: _Classified, column: Column, state: re.Match[str]) -> None:
    """A column with aggregate states, or with a SimpleAggregateFunction."""
    name = quote(column.name)
    function, _, parameters = _split(state[2])[0].partition("(")
    if UNSTABLE.fullmatch(function):
        classified.skipped.append((column.name, f"{function} depends on the order of rows"))
        return
    if state[1]:
        merged = f"{function}({name})"
    else:
        merged = f"{function}Merge" + (f"({parameters}" if parameters else "") + f"({name})"
    merged = f"arraySort({merged})" if function.startswith("groupUniqArray") else merged
    classified.values.append((column.name, merged))
    if function in IDEMPOTENT:
        classified.idempotent.add(column.name)
    elif function in ADDITIVE or (function == "sum" and state[2].count("UInt") == 1):
        classified.additive.add(column.name)


def _classify_replaced(classified: _Classified, columns: list[Column], arguments: list[str]) -> None:
    """ReplacingMergeTree keeps the row of each key with the highest version."""
    version = arguments[0].strip("` ") if arguments and arguments[0] else None
    for column in columns:
        if column.name == version:
            classified.values.append((column.name, f"max({quote(column.name)})"))
            classified.idempotent.add(column.name)
        else:
            classified.skipped.append((column.name, "rows with equal versions replace each other in arbitrary order"))


def _classify_collapsed(classified: _Classified, columns: list[Column], sign: str) -> None:
    """Collapsing engines remove pairs of rows with opposite signs; sums weighted by the sign stay the same."""
    sign = sign.strip("` ")
    for column in columns:
        if column.name == sign:
            classified.values.append((column.name, f"sum({quote(sign)})"))
        elif _NUMBER.match(column.type) and not column.type.startswith("Nullable"):
            classified.values.append((column.name, f"sum({quote(column.name)} * {quote(sign)})"))
        else:
            classified.skipped.append((column.name, "only numbers can be summed with the sign"))


def living(ttl: str, now: str = "now()") -> str | None:
    """A condition: the TTL keeps a row for at least another hour. None for a TTL that is more than a single
    expression.
    """
    if not ttl:
        return "1"
    if _RULES.search(ttl) or len(_split(ttl)) != 1:
        return None
    return _EXPIRES_LATER.format(ttl, now)


def _split(text: str) -> list[str]:
    """The expressions of a list, separated by commas outside brackets and quotes."""
    return [expression.strip() for expression in _expressions(text)]


def _expressions(text: str) -> Iterator[str]:
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
