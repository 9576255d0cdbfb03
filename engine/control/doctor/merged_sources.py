"""What can be said of a view over a source whose engine merges rows.

What has gone through the view was rows before they were merged; the view's query over the source gives values for
merged ones. Some values are the same for both, and some can only be lower for merged rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from engine.compiler.build import Build
from engine.control.doctor.comparable_columns import ComparableColumns, columns_of, listed
from engine.schema import Table, View
from engine.sql import shape as tree
from engine.sql.functions import is_aggregate
from engine.sql.tree import flat_members, identifier_parts, walk_select
from engine.warehouse.port import Warehouse

Node = Mapping[str, Any]
Bound = Literal["exact", "floor"]
"""Whether a column's value is what has gone through the view, or at most that."""
_KEPT = re.compile(r"SimpleAggregateFunction\((\w+),.*\)")
_STATE = re.compile(r"AggregateFunction\((\w+)[,(].*\)")
_MERGING = re.compile(r"(\w+?)Merge(State|SimpleState)?")
_CLAUSES = {"type", "select", "tables", "where", "prewhere", "group_by"}


def bounds(
    warehouse: Warehouse, build: Build, view: View, source: Table, target: ComparableColumns
) -> dict[str, Bound] | None:
    """What is known of each column of a view's target by name; None if nothing is."""
    kind = source.engine.partition("(")[0]
    if kind not in ("SummingMergeTree", "AggregatingMergeTree"):
        # Such engines leave out rows, and never change one.
        return dict.fromkeys(target.growing, "floor")
    pipe = build.pipes.get(view.mark.resource) if view.mark else None
    if pipe is None or pipe.target is None or len(pipe.needed()) != 1 or len(pipe.published_text().branches) != 1:
        return None
    found = tree.top(warehouse.parse(pipe.published_text().canonical)[0])
    keys = {k.strip("`") for k in listed(source.sorting_key)}
    if any(found.get(c) for c in found if c not in _CLAUSES) or not _plain(found):
        return None
    aliases = {str(i["alias"]): i for i in flat_members(found["select"]) if i.get("alias")}
    for part in (*flat_members(found.get("group_by")), found.get("where"), found.get("prewhere")):
        if part and not all(n in keys or (n in aliases and _names(aliases[n]) <= keys) for n in _names(part)):
            return None
    given = {_label(i): _bound(i, keys, _merged(source)) for i in flat_members(found["select"])}
    return {n: b for n, b in given.items() if b is not None and (b == "exact" or n in target.growing)}


def _plain(select: Node) -> bool:
    """Whether a SELECT reads one table, without subqueries, joins and windows."""
    tables = flat_members(select["tables"])
    inside = [n for n in walk_select(select) if n is not select]
    return (
        len(tables) == 1
        and "database_and_table_name" in tables[0].get("table_expression", {})
        and not any(n.get("type") in ("Subquery", "SelectQuery") or n.get("is_window_function") for n in inside)
    )


def _label(item: Node) -> str:
    return str(item.get("alias") or (identifier_parts(item)[-1] if item.get("type") == "Identifier" else ""))


def _names(node: Node) -> set[str]:
    return {str(identifier_parts(n)[-1]) for n in walk_select(node) if n.get("type") == "Identifier"}


def _merged(source: Table) -> dict[str, str]:
    """Columns that merges put together, and by which function."""
    kind, _, arguments = source.engine.partition("(")
    named = {c.strip("` ") for c in listed(arguments.rstrip(") ").lstrip("( "))}
    found = {}
    for column in columns_of(source):
        simple, state = _KEPT.fullmatch(column.type), _STATE.fullmatch(column.type)
        if simple is not None:
            found[column.name] = simple[1]
        elif state is not None:
            found[column.name] = f"{state[1]}Merge"
        elif kind == "SummingMergeTree" and (column.name in named or not named):
            found[column.name] = "sum"
    return found


def _bound(item: Node, keys: set[str], merged: Mapping[str, str]) -> Bound | None:
    """What is known of one output."""
    if _names(item) <= keys and not any(_counts(n) for n in _functions(item)):
        return "exact"
    if item.get("type") != "Function":
        return None
    name, arguments = str(item["name"]), flat_members(item.get("arguments"))
    if name in ("count", "countState") and not arguments:
        # Rows that are merged are fewer.
        return "floor"
    if len(arguments) != 1 or arguments[0].get("type") != "Identifier":
        return None
    by = merged.get(str(identifier_parts(arguments[0])[-1]))
    merging = _MERGING.fullmatch(name)
    if merging is not None:
        return "exact" if by == f"{merging[1]}Merge" else None
    return "exact" if by == name.removesuffix("SimpleState").removesuffix("State") else None


def _functions(item: Node) -> Iterator[str]:
    yield from (str(n["name"]) for n in walk_select(item) if n.get("type") == "Function")


def _counts(name: str) -> bool:
    """Whether a function of keys alone depends on how many rows there are."""
    return is_aggregate(name)
