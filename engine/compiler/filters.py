"""Parses the row filters of tokens: checks them against allow-lists, qualifies columns, and extracts the tenant.

A filter is one expression over a datasource's columns, such as `region = 'eu' AND amount > 0`. An equality on the
tenant column selects the tenant. The scope applies the remaining conditions in every relation of the datasource.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from engine.compiler.definitions import only_expression
from engine.compiler.scope import TABLE_ALIAS, Relation
from engine.errors import BAD_FILTER, RookeryError
from engine.sql.tree import members
from engine.sql.verify import Parser
from engine.tenant_ids import base_type, canonical_tenant

FILTER_FUNCTIONS = frozenset(
    {"equals", "notEquals", "less", "greater", "lessOrEquals", "greaterOrEquals", "in", "notIn", "and", "or", "not"}
    | {"xor", "like", "notLike", "ilike", "notILike", "isNull", "isNotNull", "tuple", "array", "lower", "upper"}
    | {"startsWith", "endsWith", "has", "hasAny", "hasAll", "toString", "toDate", "toDateTime", "toYYYYMM"}
    | {"toYYYYMMDD", "empty", "notEmpty", "length", "match", "coalesce", "ifNull", "minus", "plus", "negate", "CAST"}
)
FILTER_NODE_KEYS = {
    "Function": frozenset({"type", "name", "arguments", "is_operator", "kind"}),
    "Identifier": frozenset({"type", "name"}),
    "Literal": frozenset({"type", "value"}),
    "ExpressionList": frozenset({"type", "children"}),
}
MAX_FILTER_BYTES = 4096
"""Longest filter that is parsed."""


@dataclass(frozen=True, slots=True)
class ParsedFilter:
    """A filter, split into the tenant and the conditions on rows."""

    tenant: str | None
    """The tenant that it selects, if any."""
    condition: str | None
    """The other conditions: canonical SQL with columns qualified by `TABLE_ALIAS`, or None."""


def parse_filter(text: str, relation: Relation, parser: Parser) -> ParsedFilter:
    """Parse a token's filter for a datasource. Raises RK4015 unless it is a plain condition on its columns."""
    if len(text) > MAX_FILTER_BYTES:
        raise RookeryError(BAD_FILTER, "the token's filter is too long")
    try:
        tree, _ = parser.parse(f"SELECT {text}")
    except RookeryError as exc:
        raise RookeryError(BAD_FILTER, "the token's filter is not valid SQL", detail=exc.message) from exc
    expression = only_expression(tree)
    if expression is None:
        raise RookeryError(BAD_FILTER, "the token's filter is not a single condition")
    # Only the parts of an AND can select the tenant. An equality inside OR or NOT remains a condition on rows.
    conjuncts = _conjuncts(expression)
    tenants = {t for c in conjuncts if (t := _tenant_of(c, relation)) is not None}
    if len(tenants) > 1:
        raise RookeryError(BAD_FILTER, "the token's filter selects two tenants")
    conditions = [c for c in conjuncts if _tenant_of(c, relation) is None]
    texts = [_canonical(c, relation, parser) for c in conditions]
    return ParsedFilter(next(iter(tenants), None), " AND ".join(f"({t})" for t in texts) or None)


def _conjuncts(node: dict[str, Any]) -> list[dict[str, Any]]:
    """The conditions that an AND combines, at any depth; the node itself if it is not an AND."""
    if node.get("type") == "Function" and node.get("name") == "and" and (parts := members(node.get("arguments"))):
        return [c for part in parts for c in _conjuncts(part)]
    return [node]


def _tenant_of(node: dict[str, Any], relation: Relation) -> str | None:
    """The tenant in `tenant_column = literal` or `literal = tenant_column`, else None."""
    if relation.tenant is None or node.get("type") != "Function" or node.get("name") != "equals":
        return None
    compared = members(node.get("arguments"))
    if len(compared) != 2:
        # This is not a comparison. The engine itself refuses such a call.
        return None
    left, right = compared
    if left.get("type") == "Literal":
        left, right = right, left
    if left.get("type") != "Identifier" or left.get("name") != relation.tenant or right.get("type") != "Literal":
        return None
    # 1.0 is not a tenant id, although it equals 1.
    written_as = right["value"].get("field_type", "")
    value = right["value"].get("value") if written_as == "String" or "Int" in written_as else None
    try:
        return canonical_tenant(base_type(relation.tenant_type), value)
    except RookeryError as exc:
        raise RookeryError(BAD_FILTER, f"the token's filter: {exc.message}") from exc


def _canonical(node: dict[str, Any], relation: Relation, parser: Parser) -> str:
    """A condition as canonical SQL with qualified columns."""
    qualified = _qualified(node, frozenset(relation.columns), 0)
    query = {"type": "SelectQuery", "select": {"type": "ExpressionList", "children": [qualified]}}
    union = {
        "type": "SelectWithUnionQuery",
        "union_mode": "UNION_DEFAULT",
        "list_of_selects": {"type": "ExpressionList", "children": [query]},
        "is_outfile_append": False,
        "is_outfile_truncate": False,
        "is_into_outfile_with_stdout": False,
    }
    text: str = parser.format(union)
    return text.removeprefix("SELECT ").strip()


def _qualified(node: dict[str, Any], columns: frozenset[str], depth: int) -> dict[str, Any]:
    """A copy of a condition with qualified columns. Raises RK4015 for anything that a filter cannot contain."""
    kind = node.get("type", "")
    if kind not in FILTER_NODE_KEYS or set(node) - FILTER_NODE_KEYS[kind] or depth > 50:
        raise RookeryError(BAD_FILTER, "the token's filter has more than conditions on columns")
    if kind == "Identifier":
        if node["name"] not in columns:
            raise RookeryError(BAD_FILTER, f"the token's filter names an unknown column: `{node['name'][:60]}`")
        return {
            "type": "Identifier",
            "name": f"{TABLE_ALIAS}.{node['name']}",
            "name_parts": [TABLE_ALIAS, node["name"]],
        }
    if kind == "Function":
        if node["name"] not in FILTER_FUNCTIONS:
            raise RookeryError(BAD_FILTER, f"the token's filter uses the function `{node['name'][:60]}`")
        return {**node, "arguments": _qualified(node["arguments"], columns, depth + 1)}
    if kind == "ExpressionList":
        return {**node, "children": [_qualified(c, columns, depth + 1) for c in node.get("children", [])]}
    return node
