"""Limits the work of functions whose run time grows with the product of the argument lengths.

The engine checks time limits only between blocks and between the functions of a block, so a single row can keep such
a function busy for minutes. An argument is rewritten as `substring(x, 1 + throwIf(…))`: its value is `x`, or the
query fails before the function is called. It fails if an argument is too long, or if the lengths, multiplied, are too
large for the rows of the block. A block has many rows after `arrayJoin`, and in a lambda, where each element is a
row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy

from engine.sql.grammar import refuse
from engine.sql.tree import Node, members, walk_all

MAX_ARGUMENT_SIZE = 10_000
"""Maximum number of bytes of a string argument, or of elements of an array argument."""
MAX_BLOCK_WORK = 1_000_000_000
"""Maximum product of the arguments' lengths and the block's rows: a second or two of a processor."""
SMALL_BLOCK_ROWS = 16
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
_SETS = ("hasall", "hasany", "hassubstr")
BOUNDED: Mapping[str, tuple[str, int]] = {
    **dict.fromkeys(_STRINGS, ("substring", 2)),
    **dict.fromkeys(_GRAMS, ("substring", 1)),
    **dict.fromkeys(_ARRAYS, ("arraySlice", 4)),
    **dict.fromkeys(_SETS, ("arraySlice", 2)),
}
"""Lower-case name → (function that returns the argument unchanged, number of arguments with a limit)."""
MAX_SHORT_LIST = 1_000
"""Elements of a list in the SQL up to which `hasAll` and the like need no limit, because their time is linear."""
SLOW = frozenset(
    f"polygons{operation}{plane}"
    for operation in ("intersection", "union", "symdifference", "within", "equals", "distance", "intersect")
    for plane in ("cartesian", "spherical")
) | {"geometryintersectcartesian", "geometryintersectspherical", "polygonconvexhullcartesian"}
"""Functions that only need small blocks: one row takes a fraction of a second, but a usual block minutes."""
GROWING = frozenset(
    {"repeat", "range", "arraywithconstant", "arrayresize", "space", "replicate", "timeseriesrange", "randomstring"}
    | {"leftpad", "leftpadutf8", "rightpad", "rightpadutf8", "lpad", "rpad", "randomprintableascii"}
    | {"randomfixedstring", "randomstringutf8"}
)
"""Functions whose result can be far longer than their arguments."""
SCANNING = frozenset(
    {*_SETS, "has", "nothas", "indexof", "countequal", "arrayintersect", "arrayunion", "arraysymmetricdifference"}
    | {"arrayjaccardindex", "stringjaccardindex", "stringjaccardindexutf8", "mapadd", "mapsubtract", "mapupdate"}
    | {"position", "positioncaseinsensitive", "positionutf8", "positioncaseinsensitiveutf8", "locate", "instr"}
    | {"hassubsequence", "hassubsequencecaseinsensitive", "hassubsequenceutf8"}
    | {"hassubsequencecaseinsensitiveutf8", "countsubstrings", "countsubstringscaseinsensitive"}
    | {"countsubstringscaseinsensitiveutf8", "jsonmergepatch", "jsonextractraw"}
)
"""Functions that read a constant argument again for each row, and so need small blocks if it may be long: memory does
not limit it, because a block holds a constant once."""
GENERATED = frozenset({"blocksize"})
"""Functions that only rewritten arguments call. Authors cannot: the size of a block shows how rows are stored."""


def has_limit(name: str, arguments: list[Node]) -> bool:
    """Whether the arguments of this call are rewritten. `name` is in lower case."""
    if name not in BOUNDED:
        return False
    if name in _SETS and any(_is_short_list(argument) for argument in arguments):
        return any(str(node.get("name", "")).lower() in GROWING for node in walk_all(arguments))
    return True


def _is_short_list(node: Node) -> bool:
    """Whether a node is a list in the SQL itself, or a parameter."""
    if node.get("type") == "QueryParameter":
        return True
    if node.get("type") == "Literal":
        value = node.get("value")
        elements = value.get("value") if isinstance(value, dict) else None
        return isinstance(elements, list) and len(elements) <= MAX_SHORT_LIST
    elements = members(node.get("arguments"))
    is_list = node.get("type") == "Function" and str(node.get("name", "")).lower() == "array"
    return is_list and len(elements) <= MAX_SHORT_LIST


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
        lengths = [_length(argument) for argument in arguments[:limited]]
        variable = [n for n, argument in enumerate(arguments[:limited]) if argument.get("type") != "Literal"]
        for n in variable:
            limits = [_is_greater(deepcopy(lengths[n]), MAX_ARGUMENT_SIZE)]
            if n == variable[0]:
                limits.append(_is_greater(_work(lengths[:2]), MAX_BLOCK_WORK))
            arguments[n] = _bounded(arguments[n], limits, pass_on, str(call["name"]))


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


def _bounded(argument: Node, limits: list[Node], pass_on: str, name: str) -> Node:
    """`pass_on(argument, 1 + throwIf(limit OR …, message))`."""
    too_long = limits[0] if len(limits) == 1 else _operator("or", *limits)
    message = _literal("String", f"the arguments of {name} are too long")
    return _call(pass_on, argument, _operator("plus", _literal("UInt64", 1), _call("throwIf", too_long, message)))


def _length(argument: Node) -> Node:
    """`ifNull(length(argument), 0)`."""
    copy = deepcopy(argument)
    copy.pop("alias", None)
    return _call("ifNull", _call("length", copy), _literal("UInt64", 0))


def _work(lengths: list[Node]) -> Node:
    """`length * length * greatest(blockSize(), SMALL_BLOCK_ROWS)`.

    How many rows a block has depends on how rows are stored. With at least SMALL_BLOCK_ROWS it does not matter,
    except where `arrayJoin` or a lambda makes more rows of the caller's own.
    """
    product = _call("greatest", _call("blockSize"), _literal("UInt64", SMALL_BLOCK_ROWS))
    for length in lengths:
        product = _operator("multiply", deepcopy(length), product)
    return product


def _is_greater(value: Node, limit: int) -> Node:
    return _operator("greater", value, _literal("UInt64", limit))


def _operator(name: str, *arguments: Node) -> Node:
    return {**_call(name, *arguments), "is_operator": True}


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
