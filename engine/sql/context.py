"""The context of a node of a syntax tree: the names that it can see, and what the SELECT around it reads."""

from __future__ import annotations

from dataclasses import dataclass

from engine.sql.tree import Node, members


@dataclass(frozen=True, slots=True)
class Context:
    """The context of a node. The checker must resolve names as the engine does, or it would check the wrong table."""

    tables: frozenset[str] = frozenset()
    """Names of the WITH queries that the node can read."""
    columns: frozenset[str] = frozenset()
    """Names that can only mean an alias or an argument of a lambda."""
    only_table: str | None = None
    """The table that qualifies columns, if the SELECT reads exactly one."""
    item_alias: str | None = None
    """The alias of the SELECT item that contains the node."""
    select_number: int = 0
    """The number of the innermost SELECT, in the order of the walk."""
    in_table_function: bool = False
    """Whether the node is in an argument of a table function."""


def local_names(select: Node) -> frozenset[str]:
    """The names of a SELECT's WITH queries."""
    elements = members(select.get("with")) if select.get("type") == "SelectQuery" else []
    return frozenset(e["name"] for e in elements if e.get("type") == "WithElement" and isinstance(e.get("name"), str))


def only_table(select: Node) -> str | None:
    """The name that qualifies columns if a SELECT reads exactly one table; else None."""
    elements = members(select.get("tables"))
    if len(elements) != 1 or not isinstance(elements[0].get("table_expression"), dict):
        return None
    table = elements[0]["table_expression"]
    for key in ("database_and_table_name", "subquery"):
        source = table.get(key)
        if isinstance(source, dict):
            name = source.get("alias", source.get("name") if key == "database_and_table_name" else None)
            return name if isinstance(name, str) else None
    return None
