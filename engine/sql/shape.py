"""Shapes of a verified query: its branches, their left-most tables, its output names. Trees are not changed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from itertools import product

from engine.sql.checker import MEMBERSHIP
from engine.sql.functions import is_aggregate
from engine.sql.grammar import Node, listed

_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class _Local:
    """A local common table expression and the ones that it can see itself."""

    query: Node
    visible: Mapping[str, _Local]


def branches(root: Node) -> list[Node]:
    """The top-level branches of a UNION ALL, each a query of its own with the shared WITH; else the query alone."""
    flat = _flatten(root)
    if len(flat) < 2:
        return [root]
    shared = listed(flat[0].get("with"))
    return [_alone(root, select, shared if n else [], flat[0]) for n, select in enumerate(flat)]


def is_union(root: Node) -> bool:
    """Whether the top level combines several queries in whatever way."""
    return any(len(listed(q.get("list_of_selects"))) > 1 for q in _single(root))


def is_plain(root: Node) -> bool:
    """Whether a query is one SELECT without brackets, a WITH of its own, or totals beside its rows."""
    members = listed(root.get("list_of_selects"))
    if len(members) != 1 or members[0]["type"] != "SelectQuery":
        return False
    return not (listed(members[0].get("with")) or members[0].get("group_by_with_totals"))


def top(root: Node) -> Node:
    """The first SELECT of a query."""
    while root["type"] == "SelectWithUnionQuery":
        root = listed(root["list_of_selects"])[0]
    return root


def leftmost(root: Node, bound: frozenset[str]) -> str | None:
    """The bound name that the first SELECT reads first, through subqueries and local names; None if there is none."""
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
            query = _content(table["subquery"]) if "subquery" in table else None
    return None


def outputs(root: Node) -> tuple[str | None, ...] | None:
    """The names of the first SELECT's columns where evident; None where `*` or a matcher hides their number."""
    names: list[str | None] = []
    for item in listed(top(root).get("select")):
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
    """Every text in a query that may name a column, taken apart at its dots; None where it may mean all columns.

    Texts that are no names are among them, too: a column that is not here is surely not read. All columns are meant
    by `*`, by NATURAL, which joins on the columns that two tables have in common, and by a table on the right of IN.
    """
    found: set[str] = set()
    pending: list[tuple[object, bool]] = [(root, False)]
    while pending:
        node, counted = pending.pop()
        if isinstance(node, str):
            found.add(node)
            found.update(node.split("."))
        elif isinstance(node, list):
            pending.extend((child, counted) for child in node)
        elif isinstance(node, dict):
            if _means_all(node, counted):
                return None
            kind = node.get("type")
            # The argument of count(*) is rows, not columns.
            inside = node.get("name") == "count" if kind == "Function" else counted and kind == "ExpressionList"
            pending.extend((child, inside) for child in node.values())
    return frozenset(found)


def _means_all(node: Node, counted: bool) -> bool:
    """Whether a node means columns without naming them; `counted` are the arguments of `count`."""
    kind = str(node.get("type", ""))
    if kind == "Asterisk":
        return not counted
    if kind.endswith(("Asterisk", "RegexpMatcher")) or node.get("is_natural"):
        return True
    if kind != "Function" or str(node.get("name")).lower() not in MEMBERSHIP:
        return False
    return any(argument.get("type") == "Identifier" for argument in listed(node.get("arguments"))[1:])


@dataclass(frozen=True, slots=True)
class Uses:
    """What a query does with the values that it names.

    `passed` are names in arguments of functions that may make a value grow or fail on it; `aliases` pairs each alias
    with a name in what it stands for.
    """

    passed: frozenset[str]
    aliases: frozenset[tuple[str, str]]


SAFE = frozenset(
    {"equals", "notequals", "less", "greater", "lessorequals", "greaterorequals", "in", "notin", "and", "or", "not"}
    | {"isnull", "isnotnull", "like", "notlike", "length", "empty", "notempty", "has", "arrayjoin", "tostring"}
)
"""Functions that take a value as it is: none makes it longer or takes more time than reading it."""


def uses(root: Node) -> Uses | None:
    """What a query does with names; None where that cannot be told by them."""
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
        if kind == "Function" and name == "count" and _is_star(listed(node.get("arguments"))):
            node = {**node, "arguments": None}
        if "transformers" in node or "Matcher" in kind or _renames(node) or (inside and kind.endswith("Asterisk")):
            # Functions are called of columns that are not named.
            return None
        if kind == "Function" and any(_is_star([a]) for a in listed(node.get("arguments"))):
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
    """Whether a function neither fails on a value nor takes longer for it.

    A pattern that varies may be invalid, and IN converts values to the type of the rows that it compares them with.
    """
    name = str(node.get("name", "")).lower()
    others = {str(argument.get("type")) for argument in listed(node.get("arguments"))[1:]}
    if name in ("like", "notlike"):
        return others <= {"Literal", "QueryParameter"}
    return name in SAFE and not (name in MEMBERSHIP and others & {"Subquery", "Identifier"})


def _renames(node: Node) -> bool:
    """Whether a node may give values names that no alias tells.

    Unions and lists of aliases rename columns by position, and a value without an alias has its own text for a name.
    """
    if node.get("type") == "Identifier":
        return not all(_WORD.fullmatch(part) for part in str(node.get("name", "")).split("."))
    by_position = any(node.get(key) for key in ("aliases", "column_aliases", "cte_aliases"))
    return by_position or len(listed(node.get("list_of_selects"))) > 1


def passed(found: Iterable[Uses | None]) -> frozenset[str] | None:
    """Names whose values any of several queries passes to other functions, under whatever alias; None for all."""
    names: set[str] = set()
    aliases: set[tuple[str, str]] = set()
    for one in found:
        if one is None:
            return None
        names |= one.passed
        aliases |= one.aliases
    while new := {name for alias, name in aliases if alias in names} - names:
        names |= new
    return frozenset(names)


def _identifiers(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        if node.get("type") == "Identifier":
            yield from str(node.get("name", "")).split(".")
        for child in node.values():
            yield from _identifiers(child)
    elif isinstance(node, list):
        for child in node:
            yield from _identifiers(child)


def _single(root: Node) -> list[Node]:
    """The query and, while it only wraps one other in parentheses, that one."""
    found = [root]
    while len(members := listed(found[-1].get("list_of_selects"))) == 1 and "list_of_selects" in members[0]:
        found.append(members[0])
    return found


def _flatten(query: Node) -> list[Node]:
    """The SELECTs of a pure UNION ALL, nested ones included; one item for anything else."""
    if query["type"] == "SelectQuery":
        return [query]
    members = listed(query["list_of_selects"])
    if set(query.get("list_of_modes", [])) - {"UNION_ALL"}:
        return [query]
    return [s for m in members for s in _flatten(m)]


def _alone(root: Node, select: Node, shared: list[Node], first: Node) -> Node:
    """A branch as a query of its own; WITH of the first branch reaches the others, as it does in the engine."""
    query = {k: v for k, v in root.items() if k != "list_of_modes"}
    if select["type"] != "SelectQuery":
        return select
    own = deepcopy(select)
    mine = {_defines(e) for e in listed(own.get("with"))}
    added = [deepcopy(e) for e in shared if _defines(e) not in mine]
    if added:
        own["with"] = {"type": "ExpressionList", "children": added + listed(own.get("with"))}
        if first.get("recursive_with"):
            own["recursive_with"] = True
    query["list_of_selects"] = {"type": "ExpressionList", "children": [own]}
    return query


def _defines(element: Node) -> str | None:
    name = element.get("name") if element["type"] == "WithElement" else element.get("alias")
    return name if isinstance(name, str) else None


def _visible(select: Node, outer: Mapping[str, _Local]) -> Mapping[str, _Local]:
    visible = dict(outer)
    for element in listed(select.get("with")):
        if element["type"] == "WithElement":
            visible[element["name"]] = _Local(_content(element["subquery"]), dict(visible))
    return visible


def _first_table(select: Node) -> Node:
    for element in select.get("tables", {}).get("children", []):
        table: Node | None = element.get("table_expression")
        return table if table is not None else {}
    return {}


def _content(subquery: Node) -> Node:
    content: Node = subquery["children"][0]
    return content
