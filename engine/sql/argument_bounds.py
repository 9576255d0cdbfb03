"""Limits the work of functions whose run time grows with the product of the argument lengths.

The engine checks time limits only between blocks and between the functions of a block, so a single row can keep such
a function busy for minutes. An argument is rewritten as `substring(x, 1 + throwIf(…))`: its value is `x`, or the
query fails before the function is called. It fails if an argument is too long, or if the lengths, multiplied, are too
large for the rows of the block. A block has many rows after `arrayJoin`, and in a lambda, where each element is a
row. Functions that search an argument from its start for each row check the size of that argument, if it is constant,
times the rows.
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
MAX_SEARCHED = 500_000_000
"""Maximum length of a searched constant, times the block's rows: a second or two of a processor."""
SMALL_BLOCK_ROWS = 16
"""Rows per block in a statement with such calls."""
SMALL_BLOCKS: dict[str, int | str] = {
    "max_block_size": SMALL_BLOCK_ROWS,
    "max_joined_block_size_rows": SMALL_BLOCK_ROWS,
}
"""Settings for small blocks, because the engine checks time limits and cancellation between blocks."""
SENT_BLOCK_ROWS = 8192
"""Rows per block in SQL that a tenant sends. They may be wide, and each response keeps a block in memory."""
MAX_NESTED_CALLS = 3
"""Maximum nesting of calls with limits. Each level multiplies the length of its arguments."""
MAX_NESTED_SEARCHES = 5
"""Maximum nesting of calls that search."""
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
_MANY_NEEDLES = frozenset(
    {f"multi{kind}match{what}" for kind in ("", "fuzzy") for what in ("any", "anyindex", "allindices")}
    | {
        f"multisearch{what}{case}{encoding}"
        for what in ("any", "allpositions", "firstindex", "firstposition")
        for case in ("", "caseinsensitive")
        for encoding in ("", "utf8")
    }
)
"""Functions that search a string for each string of a list, which is their last argument."""
MAX_NEEDLES = 1_000
"""Maximum number of strings that are searched for at once."""
BOUNDED: Mapping[str, tuple[str, int]] = {
    **dict.fromkeys(_MANY_NEEDLES, ("arraySlice", 2)),
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
"""Functions that search a constant argument again for each row. They need small blocks if it may be long, and check
its size: memory does not limit it, because a block holds a constant once."""
_MAPS = frozenset({f"mapcontains{what}" for what in ("", "key", "value", "keylike", "valuelike")} | {"arrayelement"})
"""Functions that search a map. `arrayElement` finds an element of an array without a search."""
SEARCHING = SCANNING | _MAPS
"""Functions that check the size of a constant that they search."""
_NEEDLE_FIRST = frozenset({"locate"})
_EITHER = frozenset(
    {*_SETS, "arrayintersect", "arrayunion", "arraysymmetricdifference", "arrayjaccardindex", "stringjaccardindex"}
    | {"stringjaccardindexutf8", "mapadd", "mapsubtract", "mapupdate", "jsonmergepatch"}
)
"""Functions for which either argument can be the long one."""
MAX_UNCHECKED_LIST = 64
"""Elements or bytes of a searched literal that are not worth a check."""
GENERATED = frozenset({"blockserializedsize"})
"""Functions that only rewritten arguments call. Authors cannot: the size of a block shows how rows are stored."""


def has_limit(name: str, arguments: list[Node]) -> bool:
    """Whether the arguments of this call are rewritten. `name` is in lower case."""
    if name not in BOUNDED:
        return False
    if name in _MANY_NEEDLES:
        return len(arguments) > 1 and not _is_short_list(arguments[-1])
    if name in _SETS and any(_is_short_list(argument) for argument in arguments):
        return any(str(node.get("name", "")).lower() in GROWING for node in walk_all(arguments))
    return True


def is_scan(name: str, arguments: list[Node]) -> bool:
    """Whether this call checks the size of a constant that it searches. `name` is in lower case."""
    return name in SEARCHING and len(arguments) > 1


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


def bound_arguments(calls: Iterable[Node], root: Node) -> None:
    """Rewrite the arguments of these calls in place. Outer calls come before the calls in their arguments.

    Afterwards an argument occurs several times in the SQL, so each level of nesting multiplies its length. Raises
    RK2002.
    """
    levels: dict[int, int] = {}
    fixed = _Fixed(root)
    # Inner calls come first, because the level of a call depends on those in its arguments.
    for call in reversed(list(calls)):
        name, arguments = str(call["name"]).lower(), members(call.get("arguments"))
        pair = None if has_limit(name, arguments) else _scanned(name, arguments, fixed)
        if pair is None and not has_limit(name, arguments):
            continue
        levels[id(call)] = level = 1 + _level(call.get("arguments"), levels)
        if level > (MAX_NESTED_CALLS if pair is None else MAX_NESTED_SEARCHES):
            refuse(f"`{call['name']}` nested {level} levels deep", "calculate the inner calls in a subquery")
        if pair is None:
            _limit_lengths(call, arguments)
        else:
            searched, found = pair
            arguments[found] = _after_check(arguments[found], arguments[searched], str(call["name"]))


def _limit_lengths(call: Node, arguments: list[Node]) -> None:
    """Rewrite the arguments of one call in `BOUNDED`."""
    name = str(call["name"]).lower()
    if name in _MANY_NEEDLES:
        haystack, needles = _length(arguments[0]), _length(arguments[-1])
        work = _work([haystack, needles], [arguments[0], arguments[-1]])
        limits = [_is_greater(deepcopy(needles), MAX_NEEDLES), _is_greater(work, MAX_BLOCK_WORK)]
        arguments[-1] = _bounded(arguments[-1], limits, "arraySlice", str(call["name"]))
        return
    pass_on, limited = BOUNDED[name]
    lengths = [_length(argument) for argument in arguments[:limited]]
    variable = [n for n, argument in enumerate(arguments[:limited]) if argument.get("type") != "Literal"]
    work = _work(lengths[:2], [arguments[n] for n in variable])
    for n in variable:
        limits = [_is_greater(deepcopy(lengths[n]), MAX_ARGUMENT_SIZE)]
        # Once is enough: the engine evaluates all arguments before it calls the function.
        if n == variable[0]:
            limits.append(_is_greater(work, MAX_BLOCK_WORK))
        arguments[n] = _bounded(arguments[n], limits, pass_on, str(call["name"]))


class _Fixed:
    """Finds out which expressions are the same for all rows, as far as the SQL shows it."""

    def __init__(self, root: Node) -> None:
        nodes = [node for node in walk_all(root) if isinstance(node.get("alias"), str)]
        self._aliases: dict[str, bool] = {}
        for node in nodes:
            # A name with several meanings is fixed only if each of them is.
            alias = str(node["alias"])
            self._aliases[alias] = self._aliases.get(alias, True) and self.has(node)

    def has(self, node: Node) -> bool:
        """Whether a node is fixed. A subquery in an expression has one value."""
        pending = [node]
        while pending:
            current = pending.pop()
            kind = current.get("type")
            if kind == "Identifier" and not self._aliases.get(str(current.get("name")), False):
                return False
            if kind == "Function" and str(current.get("name", "")).lower() == "arrayjoin":
                return False
            if kind not in ("Subquery", "Identifier"):
                pending.extend(members(current.get("arguments")))
        return True


def _scanned(name: str, arguments: list[Node], fixed: _Fixed) -> tuple[int, int] | None:
    """The positions of the argument that is searched and of the one that is searched for; None without a check."""
    if not is_scan(name, arguments):
        return None
    searched, found = (1, 0) if name in _NEEDLE_FIRST else (0, 1)
    if fixed.has(arguments[found]):
        # Rows are searched for one value, so the searched value is a row's own, or the engine calculates it once.
        if name not in _EITHER or fixed.has(arguments[searched]):
            return None
        searched, found = found, searched
    return None if _is_short_literal(arguments[searched]) else (searched, found)


def _is_short_literal(node: Node) -> bool:
    value = node.get("value") if node.get("type") == "Literal" else None
    content = value.get("value") if isinstance(value, dict) else None
    return isinstance(content, str | list) and len(content) <= MAX_UNCHECKED_LIST


def _after_check(argument: Node, searched: Node, name: str) -> Node:
    """`tupleElement((argument, throwIf(isConstant(searched) AND length(searched) * rows > limit, message)), 1)`.

    The check is in the short argument: in `searched` it would make a column of a constant.
    """
    size = _operator("multiply", _length(searched), _rows([argument]))
    conditions = [_call("isConstant", _copy(searched)), _is_greater(size, MAX_SEARCHED)]
    if name.lower() == "arrayelement":
        kind = _call("toTypeName", _copy(searched))
        conditions.insert(0, _call("startsWith", kind, _literal("String", "Map(")))
    is_long = _operator("and", *conditions)
    checked = _operator("tuple", argument, _call("throwIf", is_long, _message(name)))
    return _operator("tupleElement", checked, _literal("UInt64", 1))


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
    check = _call("throwIf", too_long, _message(name))
    return _call(pass_on, argument, _operator("plus", _literal("UInt64", 1), check))


def _message(name: str) -> Node:
    return _literal("String", f"the arguments of {name} are too long")


def _length(argument: Node) -> Node:
    """`ifNull(length(argument), 0)`."""
    return _call("ifNull", _call("length", _copy(argument)), _literal("UInt64", 0))


def _copy(argument: Node) -> Node:
    """A copy without the alias, which is defined only once."""
    copy = deepcopy(argument)
    copy.pop("alias", None)
    return copy


def _work(lengths: list[Node], arguments: list[Node]) -> Node:
    """`length * length * rows`."""
    product = _rows(arguments)
    for length in lengths:
        product = _operator("multiply", deepcopy(length), product)
    return product


def _rows(arguments: list[Node]) -> Node:
    """`greatest(blockSerializedSize(ignore(arguments)), SMALL_BLOCK_ROWS)`: a byte for each row.

    `blockSize()` would not do: it does not depend on the element of a lambda, so the engine calculates it outside.
    How many rows a block has depends on how rows are stored. With at least SMALL_BLOCK_ROWS it does not matter in
    small blocks, except where `arrayJoin` or a lambda makes more rows of the caller's own.
    """
    byte = _call("ignore", *map(_copy, arguments))
    return _call("greatest", _call("blockSerializedSize", byte), _literal("UInt64", SMALL_BLOCK_ROWS))


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


def block_settings(*, is_slow: bool, is_sent: bool) -> dict[str, int | str]:
    """Settings for the blocks of a statement with slow calls, or that a tenant sends."""
    return SMALL_BLOCKS if is_slow else {"max_block_size": SENT_BLOCK_ROWS} if is_sent else {}
