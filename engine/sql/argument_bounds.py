"""Limits the length of arguments of functions whose run time grows with the product of the argument lengths.

The engine checks time limits only between blocks, so a single row can keep such a function busy for minutes. Each
argument is rewritten as `substring(x, 1 + throwIf(length(x) > …))`: its value is `x`, or the query fails before the
function is called.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy

from engine.sql.grammar import refuse
from engine.sql.tree import Node, members

MAX_ARGUMENT_SIZE = 10_000
"""Maximum number of bytes of a string argument, or of elements of an array argument."""
SMALL_BLOCK_ROWS = 64
"""Rows per block in a statement with such calls."""
SMALL_BLOCKS: dict[str, int | str] = {
    "max_block_size": SMALL_BLOCK_ROWS,
    "max_joined_block_size_rows": SMALL_BLOCK_ROWS,
}
"""Settings for small blocks, because the engine checks time limits and cancellation between blocks."""
MAX_NESTED_CALLS = 3
"""Maximum nesting of such calls. Each level doubles the length of its arguments."""
_STRINGS = (
    "editdistance",
    "editdistanceutf8",
    "levenshteindistance",
    "levenshteindistanceutf8",
    "dameraulevenshteindistance",
    "jarosimilarity",
    "jarowinklersimilarity",
)
_GRAMS = ("sparsegrams", "sparsegramsutf8", "sparsegramshashes", "sparsegramshashesutf8")
_ARRAYS = ("arraylevenshteindistance", "arraylevenshteindistanceweighted", "arraysimilarity")
BOUNDED: Mapping[str, tuple[str, int]] = {
    **dict.fromkeys(_STRINGS, ("substring", 2)),
    **dict.fromkeys(_GRAMS, ("substring", 1)),
    **dict.fromkeys(_ARRAYS, ("arraySlice", 4)),
}
"""Lower-case name → (function that returns the argument unchanged, number of arguments with a limit)."""


def bound_arguments(calls: Iterable[Node]) -> None:
    """Rewrite the arguments of these calls in place. Outer calls come before the calls in their arguments.

    Afterwards each argument occurs twice in the SQL, so each level of nesting doubles its length. Raises RK2002.
    """
    levels: dict[int, int] = {}
    for call in reversed(list(calls)):
        levels[id(call)] = level = 1 + _level(call.get("arguments"), levels)
        if level > MAX_NESTED_CALLS:
            refuse(f"`{call['name']}` nested {level} levels deep", "calculate the inner calls in a subquery")
        pass_on, limited = BOUNDED[str(call["name"]).lower()]
        arguments = members(call.get("arguments"))
        for n, argument in enumerate(arguments[:limited]):
            if argument.get("type") != "Literal":
                arguments[n] = _bounded(argument, pass_on, str(call["name"]))


def _level(node: object, levels: Mapping[int, int]) -> int:
    """How deeply calls with limits are nested below a node. `levels` has the known calls, by `id`."""
    deepest, pending = 0, [node]
    while pending:
        current = pending.pop()
        if isinstance(current, list):
            pending.extend(current)
        elif isinstance(current, dict):
            if id(current) in levels:
                deepest = max(deepest, levels[id(current)])
            else:
                pending.extend(current.values())
    return deepest


def _bounded(argument: Node, pass_on: str, name: str) -> Node:
    """`pass_on(argument, 1 + throwIf(ifNull(length(argument), 0) > limit, message))`."""
    copy = deepcopy(argument)
    copy.pop("alias", None)
    length = _call("ifNull", _call("length", copy), _literal("UInt64", 0))
    too_long = {**_call("greater", length, _literal("UInt64", MAX_ARGUMENT_SIZE)), "is_operator": True}
    message = _literal("String", f"an argument of {name} is longer than {MAX_ARGUMENT_SIZE}")
    start = {**_call("plus", _literal("UInt64", 1), _call("throwIf", too_long, message)), "is_operator": True}
    return _call(pass_on, argument, start)


def _call(name: str, *arguments: Node) -> Node:
    """A call of a function, as the parser would build it."""
    return {
        "type": "Function",
        "name": name,
        "arguments": {"type": "ExpressionList", "children": list(arguments)},
    }


def _literal(kind: str, value: int | str) -> Node:
    """A literal, as the parser would build it."""
    return {"type": "Literal", "value": {"field_type": kind, "value": value}}
