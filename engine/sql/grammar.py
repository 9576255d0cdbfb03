"""The grammar of authors' SQL: an allow-list of node types, and of the keys of each type.

The trees come from the engine's `parseQueryToJSON`. A node type, key or value that is not in `NODES` is refused. New
syntax of a newer engine therefore stays refused until it is reviewed and added here.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from engine.errors import SQL_REFUSED, RookeryError
from engine.sql.tree import Node

RESERVED = "_rk_"
"""Prefix of names in generated SQL; author SQL cannot use it."""

Kind = Literal[
    "node", "items", "list", "names", "name", "parts", "text", "words", "digits", "sign", "flag", "off", "value"
]


@dataclass(frozen=True, slots=True)
class Slot:
    """The values that a key accepts.

    The kind `node` is one node of an allowed type, `items` an ExpressionList of such nodes, `list` a plain list of
    them, and `names` an ExpressionList or list of identifiers that only name columns. The other kinds are plain
    values.
    """

    kind: Kind
    allowed: frozenset[str] = frozenset()
    """The allowed node types, or for the kind `words` the allowed values."""


def _node(*types: str) -> Slot:
    return Slot("node", frozenset(types))


def _items(*types: str) -> Slot:
    """An ExpressionList of nodes of these types."""
    return Slot("items", frozenset(types))


def _list(*types: str) -> Slot:
    """A plain list of nodes of these types."""
    return Slot("list", frozenset(types))


def _words(*words: str) -> Slot:
    """A value that is one of these words, or a list of them."""
    return Slot("words", frozenset(words))


NAME, NAMES, PARTS, TEXT, FLAG, OFF = (
    Slot("name"),
    Slot("names"),
    Slot("parts"),
    Slot("text"),
    Slot("flag"),
    Slot("off"),
)

EXPRESSIONS = (
    "Asterisk", "ColumnsListMatcher", "ColumnsRegexpMatcher", "Function", "Identifier", "Literal",
    "QualifiedAsterisk", "QualifiedColumnsListMatcher", "QualifiedColumnsRegexpMatcher", "QueryParameter", "Subquery",
)  # fmt: skip
TRANSFORMERS = ("ColumnsApplyTransformer", "ColumnsExceptTransformer", "ColumnsReplaceTransformer")
EXPRESSION, EXPRESSION_ITEMS = _node(*EXPRESSIONS), _items(*EXPRESSIONS)
TRANSFORMED = _node("ColumnsTransformerList")
QUALIFIER = _node("Identifier")
BOUNDARY = _words("Current", "Offset", "Unbounded")

NODES: Mapping[str, Mapping[str, Slot]] = {
    "SelectWithUnionQuery": {
        "union_mode": _words("UNION_DEFAULT", "UNION_ALL", "UNION_DISTINCT"),
        "list_of_modes": _words(
            "UNION_ALL", "UNION_DISTINCT", "INTERSECT_DEFAULT", "INTERSECT_ALL", "INTERSECT_DISTINCT",
            "EXCEPT_DEFAULT", "EXCEPT_ALL", "EXCEPT_DISTINCT",
        ),
        "list_of_selects": _items("SelectQuery", "SelectWithUnionQuery"),
        "is_outfile_append": OFF,
        "is_outfile_truncate": OFF,
        "is_into_outfile_with_stdout": OFF,
    },
    "SelectQuery": {
        "with": _items("WithElement", *EXPRESSIONS),
        "recursive_with": FLAG,
        "cte_aliases": NAMES,
        "distinct": FLAG,
        "select": EXPRESSION_ITEMS,
        "tables": _node("TablesInSelectQuery"),
        "prewhere": EXPRESSION,
        "where": EXPRESSION,
        "group_by": _items("ExpressionList", *EXPRESSIONS),
        "group_by_all": FLAG,
        "group_by_with_cube": FLAG,
        "group_by_with_grouping_sets": FLAG,
        "group_by_with_rollup": FLAG,
        "group_by_with_totals": FLAG,
        "having": EXPRESSION,
        "window": _items("WindowListElement"),
        "qualify": EXPRESSION,
        "order_by": _items("OrderByElement"),
        "order_by_all": FLAG,
        "interpolate": _items("InterpolateElement"),
        "limit_by": EXPRESSION_ITEMS,
        "limit_by_all": FLAG,
        "limit_by_length": EXPRESSION,
        "limit_by_offset": EXPRESSION,
        "limit_length": EXPRESSION,
        "limit_offset": EXPRESSION,
        "limit_with_ties": FLAG,
    },
    "WithElement": {"name": NAME, "subquery": _node("Subquery"), "aliases": NAMES, "is_materialized": FLAG},
    "Subquery": {"alias": NAME, "children": _list("SelectWithUnionQuery")},
    "ExpressionList": {"children": _list(*EXPRESSIONS)},
    "TablesInSelectQuery": {"children": _list("TablesInSelectQueryElement")},
    "TablesInSelectQueryElement": {
        "table_expression": _node("TableExpression"),
        "table_join": _node("TableJoin"),
        "array_join": _node("ArrayJoin"),
    },
    "TableExpression": {
        "database_and_table_name": _node("TableIdentifier"),
        "subquery": _node("Subquery"),
        "table_function": _node("Function"),
        "column_aliases": NAMES,
        "final": FLAG,
        "sample_size": _node("SampleRatio"),
        "sample_offset": _node("SampleRatio"),
    },
    "TableIdentifier": {"name": NAME, "name_parts": PARTS, "alias": NAME},
    "SampleRatio": {"numerator": Slot("digits"), "denominator": Slot("digits")},
    "TableJoin": {
        "kind": _words("COMMA", "CROSS", "FULL", "INNER", "LEFT", "PASTE", "RIGHT"),
        "strictness": _words("ALL", "ANTI", "ANY", "ASOF", "SEMI"),
        "locality": _words("GLOBAL", "LOCAL"),
        "is_natural": FLAG,
        "on_expression": EXPRESSION,
        "using_expression_list": NAMES,
    },
    "ArrayJoin": {"kind": _words("Inner", "Left"), "expression_list": EXPRESSION_ITEMS},
    "Function": {
        "name": TEXT,
        "alias": NAME,
        "arguments": EXPRESSION_ITEMS,
        "parameters": EXPRESSION_ITEMS,
        "is_operator": FLAG,
        "is_lambda_function": FLAG,
        "is_window_function": FLAG,
        "kind": _words("LAMBDA_FUNCTION", "WINDOW_FUNCTION"),
        "nulls_action": _words("IGNORE_NULLS", "RESPECT_NULLS"),
        "window_name": NAME,
        "window_definition": _node("WindowDefinition"),
    },
    "WindowListElement": {"name": NAME, "definition": _node("WindowDefinition")},
    "WindowDefinition": {
        "parent_window_name": NAME,
        "partition_by": EXPRESSION_ITEMS,
        "order_by": _items("OrderByElement"),
        "frame_is_default": FLAG,
        "frame_type": _words("GROUPS", "RANGE", "ROWS"),
        "frame_begin_type": BOUNDARY,
        "frame_begin_offset": EXPRESSION,
        "frame_begin_preceding": FLAG,
        "frame_end_type": BOUNDARY,
        "frame_end_offset": EXPRESSION,
        "frame_end_preceding": FLAG,
    },
    "OrderByElement": {
        "expression": EXPRESSION,
        "direction": Slot("sign"),
        "nulls_direction": Slot("sign"),
        "nulls_direction_was_explicitly_specified": FLAG,
        "collation": _node("Literal"),
        "with_fill": FLAG,
        "fill_from": EXPRESSION,
        "fill_to": EXPRESSION,
        "fill_step": EXPRESSION,
        "fill_staleness": EXPRESSION,
    },
    "InterpolateElement": {"column": NAME, "expr": EXPRESSION},
    "Identifier": {"name": NAME, "name_parts": PARTS, "alias": NAME},
    "Literal": {"value": Slot("value"), "alias": NAME},
    "QueryParameter": {"name": NAME, "param_type": TEXT, "alias": NAME},
    "Asterisk": {"transformers": TRANSFORMED},
    "QualifiedAsterisk": {"qualifier": QUALIFIER, "transformers": TRANSFORMED},
    "ColumnsListMatcher": {"column_list": NAMES, "transformers": TRANSFORMED},
    "ColumnsRegexpMatcher": {"pattern": TEXT, "transformers": TRANSFORMED},
    "QualifiedColumnsListMatcher": {"qualifier": QUALIFIER, "column_list": NAMES, "transformers": TRANSFORMED},
    "QualifiedColumnsRegexpMatcher": {"qualifier": QUALIFIER, "pattern": TEXT, "transformers": TRANSFORMED},
    "ColumnsTransformerList": {"children": _list(*TRANSFORMERS)},
    "ColumnsApplyTransformer": {
        "func_name": TEXT,
        "parameters": EXPRESSION_ITEMS,
        "lambda": _node("Function"),
        "lambda_arg": NAME,
        "column_name_prefix": TEXT,
    },
    "ColumnsExceptTransformer": {"children": NAMES, "pattern": TEXT, "is_strict": FLAG},
    "ColumnsReplaceTransformer": {"children": _list("ColumnsReplaceTransformerReplacement"), "is_strict": FLAG},
    "ColumnsReplaceTransformerReplacement": {"name": NAME, "children": _list(*EXPRESSIONS)},
}  # fmt: skip

LITERALS = frozenset({"Array", "Bool", "Float64", "Int64", "Null", "String", "Tuple", "UInt64"})

CONSTRUCTS: Mapping[str, tuple[str, str]] = {
    "settings": ("SETTINGS", "limits are set by the pipe and the server; remove the clause"),
    "settings_ast": ("SETTINGS", "limits are set by the pipe and the server; remove the clause"),
    "out_file": ("INTO OUTFILE", "results are returned to the caller; remove the clause"),
    "format_ast": (
        "FORMAT",
        "remove the clause; the endpoint's extension chooses the format, or --format on the command line",
    ),
    "stream_settings": ("STREAM", "read the table without STREAM"),
    "is_compound_name": ("a function with a compound name", "call functions by their plain name"),
    "children": ("an identifier as a parameter", "use a value placeholder, or `{{column(...)}}` in a template"),
}
"""Refused keys for which authors know another name: key → (that name, hint)."""


def refuse(what: str, hint: str | None = None) -> NoReturn:
    """Raise SQL_REFUSED for a construct."""
    raise RookeryError(SQL_REFUSED, f"{what} is not allowed here", hint=hint)


def check_name(name: object) -> None:
    """Refuse a name that is unsafe in generated SQL: empty, with control characters, or with the reserved prefix."""
    if not isinstance(name, str) or not name:
        refuse("an empty name", CONSTRUCTS["children"][1])
    if any(unicodedata.category(c) in {"Cc", "Cs", "Zl", "Zp"} for c in name):
        refuse(f"a control character in a name ({name!r})", "rename it")
    if name.lower().startswith(RESERVED):
        refuse(f"the name `{name}`", f"names that start with `{RESERVED}` are reserved")


def children(node: Node, allowed: frozenset[str]) -> Iterator[tuple[str, Node]]:
    """Check a node against `NODES` and yield its child nodes as (key, node). Raises SQL_REFUSED."""
    kind = node.get("type")
    keys = NODES.get(kind) if isinstance(kind, str) and kind in allowed else None
    if keys is None:
        refuse(f"`{kind}`", "only SELECT statements of the documented forms can be used")
    for key, value in node.items():
        if key == "type":
            continue
        # A key that is not listed may change what the node means, however harmless it looks.
        slot = keys.get(key)
        if slot is None:
            construct, hint = CONSTRUCTS.get(key, (f"`{key}` of `{kind}`", "write the query without it"))
            refuse(construct, hint)
        for child in _child_nodes(slot, value, f"`{key}` of `{kind}`"):
            yield key, child


def slot_types(node: Node, key: str) -> frozenset[str]:
    """The node types allowed under a key of a node that `children` accepted."""
    return NODES[node["type"]][key].allowed


def _child_nodes(slot: Slot, value: Any, where: str) -> list[Node]:
    """Check the value of a key and return the nodes in it. `where` names the key in messages."""
    if slot.kind == "node":
        return [_is_node(value, where)]
    if slot.kind in ("items", "list"):
        return _members(slot.kind, value, where)
    if slot.kind == "names":
        _check_names(value, where)
    elif slot.kind == "name":
        check_name(value)
    elif slot.kind == "parts":
        for part in value if isinstance(value, list) else [None]:
            check_name(part)
    elif slot.kind == "value":
        _check_literal(value, where)
    elif not _plain(slot, value):
        refuse(f"{where} = {value!r}", _UNION_HINT if "UNION_DEFAULT" in str(value) else None)
    return []


_UNION_HINT = "write UNION ALL or UNION DISTINCT"


def _plain(slot: Slot, value: Any) -> bool:
    """Whether a value that holds no nodes is one that the slot accepts."""
    if slot.kind == "flag":
        return isinstance(value, bool)
    if slot.kind == "off":
        return value is False
    if slot.kind == "sign":
        return value in (1, -1)
    if slot.kind == "digits":
        return isinstance(value, str) and value.isascii() and value.isdigit()
    if slot.kind == "words":
        return all(v in slot.allowed for v in (value if isinstance(value, list) else [value]))
    return isinstance(value, str)


def _is_node(value: Any, where: str) -> Node:
    if not isinstance(value, dict) or not isinstance(value.get("type"), str):
        refuse(where)
    return value


def _members(kind: Kind, value: Any, where: str) -> list[Node]:
    """The nodes of an ExpressionList (`items`) or of a plain list. Refuses anything else."""
    if kind == "items":
        node = _is_node(value, where)
        if node["type"] != "ExpressionList" or not set(node) <= {"type", "children"}:
            refuse(where)
        value = node.get("children", [])
    if not isinstance(value, list):
        refuse(where)
    return [_is_node(v, where) for v in value]


def _check_names(value: Any, where: str) -> None:
    for node in _members("list" if isinstance(value, list) else "items", value, where):
        # `children` checks the identifier while it is read. Only a plain name has no nodes of its own.
        for _ in children(node, frozenset({"Identifier"})):
            refuse(where)


def _check_literal(value: Any, where: str) -> None:
    """Refuse a literal of an unknown type. Arrays and tuples are checked to any depth, without recursion."""
    pending = [value]
    while pending:
        literal = pending.pop()
        if (
            not isinstance(literal, dict)
            or set(literal) != {"field_type", "value"}
            or literal["field_type"] not in LITERALS
        ):
            refuse(f"a literal of this type ({where})")
        content = literal["value"]
        if literal["field_type"] in ("Array", "Tuple"):
            if not isinstance(content, list):
                refuse(where)
            pending.extend(content)
        elif not (content is None or isinstance(content, (str, int, float))):
            refuse(where)
