"""Properties of a verified query's tree: branches, left-most tables, output names, used columns.

Nothing here changes a tree.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from itertools import product

from engine.sql.functions import MEMBERSHIP, is_aggregate
from engine.sql.tree import Node, members

_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class _Local:
    """A WITH query, and the WITH queries that are visible inside it."""

    query: Node
    visible: Mapping[str, _Local]


def branches(root: Node) -> list[Node]:
    """The branches of a top-level UNION ALL as separate queries, each with the shared WITH; else the query itself."""
    flat = _flatten(root)
    if len(flat) < 2:
        return [root]
    shared = members(flat[0].get("with"))
    return [_as_query(root, select, shared if n else [], flat[0]) for n, select in enumerate(flat)]


def is_union(root: Node) -> bool:
    """Whether the top level combines several queries: UNION, INTERSECT or EXCEPT."""
    return any(len(members(q.get("list_of_selects"))) > 1 for q in _unwrapped(root))


def is_plain(root: Node) -> bool:
    """Whether a query is one SELECT without brackets, WITH clause or WITH TOTALS."""
    selects = members(root.get("list_of_selects"))
    if len(selects) != 1 or selects[0]["type"] != "SelectQuery":
        return False
    return not (members(selects[0].get("with")) or selects[0].get("group_by_with_totals"))


def top(root: Node) -> Node:
    """The first SELECT of a query."""
    while root["type"] == "SelectWithUnionQuery":
        root = members(root["list_of_selects"])[0]
    return root


def leftmost(root: Node, bound: frozenset[str]) -> str | None:
    """The bound name that the first SELECT reads first, even through subqueries and WITH queries, or None."""
    query: Node | None = root
    visible: Mapping[str, _Local] = {}
    while query is not None:
        select = top(query)
        visible = _visible(select, visible)
        table = _first_table(select)
        name = table.get("database_and_table_name", {}).get("name")
        if name is not None and name not in visible:
            return name if name in bound else None
        if name is not None:
            query, visible = visible[name].query, visible[name].visible
        else:
            query = _query_of(table["subquery"]) if "subquery" in table else None
    return None


def outputs(root: Node) -> tuple[str | None, ...] | None:
    """The column names of the first SELECT, None for an unnamed column; None if `*` or COLUMNS hides their number."""
    names: list[str | None] = []
    for item in members(top(root).get("select")):
        if "alias" in item:
            names.append(item["alias"])
        elif item["type"] == "Identifier":
            names.append(item.get("name_parts", [item["name"]])[-1])
        elif item["type"] in ("Function", "Literal", "QueryParameter", "Subquery"):
            names.append(None)
        else:
            return None
    return tuple(names)


def names(root: Node) -> frozenset[str] | None:
    """Every string in a query that may name a column, and its parts between dots; None if any column may be meant.

    The set may be too large, but it is never too small: the query does not read any other column. Any column may be
    meant by `*`, by a table on the right of IN, and by NATURAL, which joins on the columns that two tables share.
    """
    names: set[str] = set()
    pending: list[tuple[object, bool]] = [(root, False)]
    while pending:
        node, counted = pending.pop()
        if isinstance(node, str):
            names.add(node)
            # `a.b` may be column `a.b`, column `b` of table `a`, or element `b` of column `a`.
            names.update(node.split("."))
        elif isinstance(node, list):
            pending.extend((child, counted) for child in node)
        elif isinstance(node, dict):
            if _means_all(node, counted):
                return None
            kind = node.get("type")
            # The argument of count(*) is rows, not columns.
            inside = node.get("name") == "count" if kind == "Function" else counted and kind == "ExpressionList"
            pending.extend((child, inside) for child in node.values())
    return frozenset(names)


def _means_all(node: Node, counted: bool) -> bool:
    """Whether a node means columns without naming them. `counted`: it is an argument of `count`."""
    kind = str(node.get("type", ""))
    if kind == "Asterisk":
        return not counted
    if kind.endswith(("Asterisk", "RegexpMatcher")) or node.get("is_natural"):
        return True
    if kind != "Function" or str(node.get("name")).lower() not in MEMBERSHIP:
        return False
    return any(argument.get("type") == "Identifier" for argument in members(node.get("arguments"))[1:])


@dataclass(frozen=True, slots=True)
class Uses:
    """How a query uses the values that it names."""

    passed: frozenset[str]
    """Names in arguments of functions that may fail on a value or make it longer."""
    aliases: frozenset[tuple[str, str]]
    """Pairs of an alias and a name in the expression that it names."""


SAFE = frozenset(
    {"equals", "notequals", "less", "greater", "lessorequals", "greaterorequals", "in", "notin", "and", "or", "not"}
    | {"isnull", "isnotnull", "like", "notlike", "length", "empty", "notempty", "has", "arrayjoin", "tostring"}
)
"""Functions that cannot fail on a value, do not make it longer, and do not take more time than reading it."""


def uses(root: Node) -> Uses | None:
    """How a query uses names; None if it uses unnamed values."""
    passed: set[str] = set()
    aliases: set[tuple[str, str]] = set()
    pending: list[tuple[object, bool]] = [(root, False)]
    while pending:
        node, inside = pending.pop()
        if isinstance(node, list):
            pending.extend((child, inside) for child in node)
        if not isinstance(node, dict):
            continue
        kind, name = str(node.get("type", "")), str(node.get("name", ""))
        if kind == "Function" and name == "count" and _is_star(members(node.get("arguments"))):
            node = {**node, "arguments": None}
        if "transformers" in node or "Matcher" in kind or _renames(node) or (inside and kind.endswith("Asterisk")):
            # A function is called with columns that the SQL does not name.
            return None
        if kind == "Function" and any(_is_star([a]) for a in members(node.get("arguments"))):
            return None
        if kind == "Identifier" and inside:
            passed.update(name.split("."))
        if "alias" in node:
            aliases.update(product(str(node["alias"]).split("."), _identifiers(node)))
        unsafe = kind == "Function" and not (_is_safe(node) or is_aggregate(name))
        pending.extend((child, inside or unsafe) for child in node.values())
    return Uses(frozenset(passed), frozenset(aliases))


def _is_star(arguments: list[Node]) -> bool:
    """Whether arguments are `*` or `t.*` alone."""
    return len(arguments) == 1 and str(arguments[0].get("type")).endswith("Asterisk")


def _is_safe(node: Node) -> bool:
    """Whether a call cannot fail on a value, and does not take longer for a longer value.

    LIKE with a pattern that is not constant is unsafe, because the pattern may be invalid. IN with a subquery or
    table is unsafe, because it converts values to the type of that table's column, which may fail.
    """
    name = str(node.get("name", "")).lower()
    others = {str(argument.get("type")) for argument in members(node.get("arguments"))[1:]}
    if name in ("like", "notlike"):
        return others <= {"Literal", "QueryParameter"}
    return name in SAFE and not (name in MEMBERSHIP and others & {"Subquery", "Identifier"})


def _renames(node: Node) -> bool:
    """Whether a node may name values other than by an alias.

    Unions and lists of aliases rename columns by position. The name of a value without an alias is its own SQL.
    """
    if node.get("type") == "Identifier":
        return not all(_WORD.fullmatch(part) for part in str(node.get("name", "")).split("."))
    by_position = any(node.get(key) for key in ("aliases", "column_aliases", "cte_aliases"))
    return by_position or len(members(node.get("list_of_selects"))) > 1


def passed(uses_of_queries: Iterable[Uses | None]) -> frozenset[str] | None:
    """The names whose values any of the queries passes to a function, directly or by an alias; None for all names."""
    names: set[str] = set()
    aliases: set[tuple[str, str]] = set()
    for uses in uses_of_queries:
        if uses is None:
            return None
        names |= uses.passed
        aliases |= uses.aliases
    # An alias may be defined by other aliases, so repeat this until it adds nothing.
    while added := {name for alias, name in aliases if alias in names} - names:
        names |= added
    return frozenset(names)


def _identifiers(node: object) -> Iterator[str]:
    """The parts of all identifiers below a node."""
    if isinstance(node, dict):
        if node.get("type") == "Identifier":
            yield from str(node.get("name", "")).split(".")
        for child in node.values():
            yield from _identifiers(child)
    elif isinstance(node, list):
        for child in node:
            yield from _identifiers(child)


def _unwrapped(root: Node) -> list[Node]:
    """The query, then the query inside its parentheses, and so on."""
    queries = [root]
    while len(selects := members(queries[-1].get("list_of_selects"))) == 1 and "list_of_selects" in selects[0]:
        queries.append(selects[0])
    return queries


def _flatten(query: Node) -> list[Node]:
    """The SELECTs of a UNION ALL, including nested ones; only the query itself for anything else."""
    if query["type"] == "SelectQuery":
        return [query]
    queries = members(query["list_of_selects"])
    # UNION DISTINCT compares the rows of all branches, so they cannot become separate views.
    if set(query.get("list_of_modes", [])) - {"UNION_ALL"}:
        return [query]
    return [s for m in queries for s in _flatten(m)]


def _as_query(root: Node, select: Node, shared: list[Node], first: Node) -> Node:
    """A branch as a separate query. As in the engine, WITH queries of the first branch are visible in the others."""
    query = {k: v for k, v in root.items() if k != "list_of_modes"}
    if select["type"] != "SelectQuery":
        return select
    # Each branch is rewritten and formatted on its own.
    branch = deepcopy(select)
    own_names = {_defined_name(e) for e in members(branch.get("with"))}
    inherited = [deepcopy(e) for e in shared if _defined_name(e) not in own_names]
    if inherited:
        branch["with"] = {"type": "ExpressionList", "children": inherited + members(branch.get("with"))}
        if first.get("recursive_with"):
            branch["recursive_with"] = True
    query["list_of_selects"] = {"type": "ExpressionList", "children": [branch]}
    return query


def _defined_name(element: Node) -> str | None:
    name = element.get("name") if element["type"] == "WithElement" else element.get("alias")
    return name if isinstance(name, str) else None


def _visible(select: Node, outer: Mapping[str, _Local]) -> Mapping[str, _Local]:
    """The WITH queries that a SELECT can read. Its own hide outer ones of the same name."""
    visible = dict(outer)
    for element in members(select.get("with")):
        if element["type"] == "WithElement":
            visible[element["name"]] = _Local(_query_of(element["subquery"]), dict(visible))
    return visible


def _first_table(select: Node) -> Node:
    """The first table expression in FROM; empty if there is none."""
    for element in select.get("tables", {}).get("children", []):
        table: Node | None = element.get("table_expression")
        return table if table is not None else {}
    return {}


def _query_of(subquery: Node) -> Node:
    content: Node = subquery["children"][0]
    return content
