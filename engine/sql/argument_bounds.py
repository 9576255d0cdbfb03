"""Bounds on arguments of functions whose time grows with the product of their lengths.

The engine looks at limits of time between blocks, so one row of such a function can hold a reader for minutes. Each
argument becomes `substring(x, 1 + throwIf(length(x) > …))`, which is `x` or an error, before the function is called.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy

from engine.sql.grammar import Node, listed, refuse

MAX_ARGUMENT_SIZE = 10_000
"""Bytes of a text, or items of an array."""
ROWS = 64
"""Rows of a block in a statement with such calls."""
SMALL_BLOCKS: dict[str, int | str] = {"max_block_size": ROWS, "max_joined_block_size_rows": ROWS}
"""The engine's settings for that: it looks at limits of time, and at cancellations, between blocks."""
MAX_NESTED_CALLS = 3
"""Most calls within each other."""
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
"""By name in lower case: the function that passes an argument on, and how many arguments are bounded."""


def bound_arguments(calls: Iterable[Node]) -> None:
    """Bound the arguments of these calls, in their tree. A call comes after every call that it is an argument of.

    An argument is in the text twice afterwards, so with every level of nesting the text doubles. Raises RK2002.
    """
    levels: dict[int, int] = {}
    for call in reversed(list(calls)):
        levels[id(call)] = level = 1 + _level(call.get("arguments"), levels)
        if level > MAX_NESTED_CALLS:
            refuse(f"`{call['name']}` of others in {level} levels", "calculate the inner ones in a subquery")
        pass_on, most = BOUNDED[str(call["name"]).lower()]
        arguments = listed(call.get("arguments"))
        for n, argument in enumerate(arguments[:most]):
            if argument.get("type") != "Literal":
                arguments[n] = _bounded(argument, pass_on, str(call["name"]))


def _level(node: object, levels: Mapping[int, int]) -> int:
    """How many calls with bounded arguments are nested below a node, whose levels are known."""
    found, pending = 0, [node]
    while pending:
        each = pending.pop()
        if isinstance(each, list):
            pending.extend(each)
        elif isinstance(each, dict):
            if id(each) in levels:
                found = max(found, levels[id(each)])
            else:
                pending.extend(each.values())
    return found


def _bounded(argument: Node, pass_on: str, name: str) -> Node:
    measured = deepcopy(argument)
    measured.pop("alias", None)
    length = _call("ifNull", _call("length", measured), _literal("UInt64", 0))
    too_long = {**_call("greater", length, _literal("UInt64", MAX_ARGUMENT_SIZE)), "is_operator": True}
    message = _literal("String", f"an argument of {name} is longer than {MAX_ARGUMENT_SIZE}")
    start = {**_call("plus", _literal("UInt64", 1), _call("throwIf", too_long, message)), "is_operator": True}
    return _call(pass_on, argument, start)


def _call(name: str, *arguments: Node) -> Node:
    return {
        "type": "Function",
        "name": name,
        "arguments": {"type": "ExpressionList", "children": list(arguments)},
    }


def _literal(kind: str, value: int | str) -> Node:
    return {"type": "Literal", "value": {"field_type": kind, "value": value}}
