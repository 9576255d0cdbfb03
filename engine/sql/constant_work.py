"""Estimates the work of the constant expressions of a query, which the engine calculates while it plans.

Planning has no time limit. The work of a call is the length of its longest argument; a lambda does its work for each
element of its arrays. Lengths are known for literals, for functions such as `range` with a number, and for columns
that are computed from these. Everything else counts as short: the engine reads rows in blocks and checks the time
limit between them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from engine.sql.argument_bounds import BOUNDED, GROWING, SEARCHING
from engine.sql.tree import Node, members

UNKNOWN_LENGTH = 1_000_000
"""Length of a constant whose length is not written in the SQL, in elements or bytes."""
WORK_PER_PART = 5_000
"""Elements or bytes that cost as much as planning one part."""
MAX_WORK = 1 << 62
"""Largest number in an estimate; larger numbers are reduced to this."""
COLUMN_MARK = "#"
"""In a `Lengths`, separates a bound name and the column whose length counts."""
ANY_COLUMN = COLUMN_MARK
"""In a `Lengths`: the longest column of all bound names."""
MAX_COLUMNS = 8
"""Columns in a `Lengths`; more become ANY_COLUMN, because nested expressions would copy them again and again."""

Lengths = Mapping[str, int]
"""The length of a value: under the empty name the known length, and the columns (`name#column`) whose lengths, known
later, may be greater. Empty for a short value.
"""


@dataclass(frozen=True, slots=True)
class Cost:
    """What an expression contributes to the expressions around it."""

    length: Lengths = field(default_factory=dict)
    work: Mapping[str, int] = field(default_factory=dict)
    """A constant under the empty name, and for each column how often its length is added."""
    is_fixed: bool = True
    """Whether the value is the same for all rows, as far as the SQL shows it."""


NOTHING = Cost()


def column_key(name: str, column: str) -> str:
    """The name of a column of a bound name in a `Lengths`."""
    return f"{name}{COLUMN_MARK}{column}"


def longest(lengths: Iterable[Lengths]) -> Lengths:
    """The length of the longest of several values."""
    result: dict[str, int] = {}
    for length in lengths:
        for name, number in length.items():
            result[name] = max(number, result.get(name, 0))
    if len(result) > MAX_COLUMNS:
        return {"": result.get("", 0), ANY_COLUMN: 1}
    return result


def cost_of_literal(node: Node) -> Cost:
    """The cost of a literal: a list is as long as it has elements, a text as it has characters."""
    value = node.get("value")
    content = value.get("value") if isinstance(value, dict) else None
    return Cost({"": len(content)} if isinstance(content, str | list) and len(content) > 1 else {})


def cost_of_call(node: Node, below: list[tuple[Node, Cost]], *, is_scalar: bool) -> Cost:
    """The cost of a function, given those of its arguments. `is_scalar`: its result is a single element."""
    name = str(node.get("name", "")).lower()
    lambdas = [cost for argument, cost in below if argument.get("is_lambda_function")]
    values = [cost for argument, cost in below if not argument.get("is_lambda_function")]
    length, fixed = longest(cost.length for cost in values), all(cost.is_fixed for _, cost in below)
    work: Counter[str] = Counter()
    for cost in values:
        add_work(work, cost.work)
    for cost in lambdas:
        _add_for_each(work, cost.work, length)
    if name in GROWING:
        length = _grown(node, fixed=fixed)
        work[""] += UNKNOWN_LENGTH if not length else 0
    # Functions with limits of their own are stopped when they are called.
    if name not in BOUNDED and name not in SEARCHING:
        add_work(work, dict.fromkeys(length, 1) | {"": max(1, length.get("", 0))})
    if is_scalar or name == "arrayjoin":
        length = {}
    return Cost(length, work, fixed and name != "arrayjoin")


def add_work(total: Counter[str], more: Mapping[str, int], times: int = 1) -> None:
    """Add work in place."""
    for name, number in more.items():
        total[name] = min(total[name] + times * number, MAX_WORK)
    if len(total) > MAX_COLUMNS:
        known, columns = total.pop("", 0), min(sum(total.values()), MAX_WORK)
        total.clear()
        total.update({"": known, ANY_COLUMN: columns})


def _add_for_each(total: Counter[str], body: Mapping[str, int], length: Lengths) -> None:
    """Add the work of a lambda for each element of arrays with a length."""
    add_work(total, body, max(1, length.get("", 1)))
    for column in length:
        if column:
            # The work of the body in terms of other columns is small against this, or refused where it is measured.
            add_work(total, {column: sum(body.values())})


def _grown(node: Node, *, fixed: bool) -> Lengths:
    """The length of the result of a function such as `range`."""
    literals = [a["value"]["value"] for a in members(node.get("arguments")) if isinstance(a.get("value"), dict)]
    numbers = [abs(int(v)) for v in literals if str(v).lstrip("-").isdecimal()]
    if numbers:
        return {"": max(numbers)}
    return {"": UNKNOWN_LENGTH} if fixed else {}
