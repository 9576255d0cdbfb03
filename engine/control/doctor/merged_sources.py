"""For views over sources whose engine merges rows, finds the columns that can still be computed from the source.

The view processed rows before they were merged, but its query over the source now reads merged rows. Some columns
have the same value in both cases, and others can only be lower for merged rows.
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
"""How the value computed from merged rows relates to the delivered one: it is equal, or at most that value."""
_KEPT = re.compile(r"SimpleAggregateFunction\((\w+),.*\)")
_STATE = re.compile(r"AggregateFunction\((\w+)[,(].*\)")
_MERGING = re.compile(r"(\w+?)Merge(State|SimpleState)?")
_CLAUSES = {"type", "select", "tables", "where", "prewhere", "group_by"}
"""Parts of a SELECT that this module understands."""


def bounds(
    warehouse: Warehouse, build: Build, view: View, source: Table, target: ComparableColumns
) -> dict[str, Bound] | None:
    """What is known about each column of a view's target, by name; None if nothing is."""
    kind = source.engine.partition("(")[0]
    if kind not in ("SummingMergeTree", "AggregatingMergeTree"):
        # Replacing and collapsing engines remove rows but never change them.
        return dict.fromkeys(target.growing, "floor")
    pipe = build.pipes.get(view.mark.resource) if view.mark else None
    if pipe is None or pipe.target is None or len(pipe.needed()) != 1 or len(pipe.published_text().branches) != 1:
        return None
    select = tree.top(warehouse.parse(pipe.published_text().canonical)[0])
    keys = {k.strip("`") for k in listed(source.sorting_key)}
    if any(select.get(c) for c in select if c not in _CLAUSES) or not _reads_one_table(select):
        return None
    aliases = {str(i["alias"]): i for i in flat_members(select["select"]) if i.get("alias")}
    for clause in (*flat_members(select.get("group_by")), select.get("where"), select.get("prewhere")):
        if clause and not all(n in keys or (n in aliases and _names(aliases[n]) <= keys) for n in _names(clause)):
            return None
    outputs = {_label(i): _bound(i, keys, _merging_functions(source)) for i in flat_members(select["select"])}
    return {n: b for n, b in outputs.items() if b is not None and (b == "exact" or n in target.growing)}


def _reads_one_table(select: Node) -> bool:
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


def _merging_functions(source: Table) -> dict[str, str]:
    """The aggregate function with which the source's engine merges each column."""
    kind, _, arguments = source.engine.partition("(")
    named = {c.strip("` ") for c in listed(arguments.rstrip(") ").lstrip("( "))}
    functions = {}
    for column in columns_of(source):
        simple, state = _KEPT.fullmatch(column.type), _STATE.fullmatch(column.type)
        if simple is not None:
            functions[column.name] = simple[1]
        elif state is not None:
            functions[column.name] = f"{state[1]}Merge"
        elif kind == "SummingMergeTree" and (column.name in named or not named):
            functions[column.name] = "sum"
    return functions


def _bound(item: Node, keys: set[str], merged: Mapping[str, str]) -> Bound | None:
    """What is known about one output; `merged` maps columns of the source to the functions that merge them."""
    if _names(item) <= keys and not any(is_aggregate(n) for n in _functions(item)):
        # Keys stay unchanged, but an aggregate over them depends on the number of rows.
        return "exact"
    if item.get("type") != "Function":
        return None
    name, arguments = str(item["name"]), flat_members(item.get("arguments"))
    if name in ("count", "countState") and not arguments:
        # There are fewer rows after a merge.
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
