"""Reads syntax trees: the only helpers for lists, names and traversal. They do not check or change a tree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Node = dict[str, Any]
"""A node of a syntax tree: JSON data with a `type`."""

_SEPARATE_QUERIES = frozenset({"Subquery", "WithElement"})


def members(node: Mapping[str, Any] | None) -> list[Node]:
    """The child list of an ExpressionList, not a copy; an empty list for an absent node."""
    children = (node or {}).get("children", [])
    return children if isinstance(children, list) else []


def flat_members(node: Any) -> list[Node]:
    """The members of an ExpressionList or list, with nested lists flattened and names made Identifiers."""
    children = members(node) if node is None or isinstance(node, Mapping) else node
    flat: list[Node] = []
    for child in children:
        if isinstance(child, str):
            flat.append({"type": "Identifier", "name": child})
        elif child.get("type") == "ExpressionList":
            flat.extend(flat_members(child))
        else:
            flat.append(child)
    return flat


def identifier_parts(node: Mapping[str, Any]) -> tuple[str, ...]:
    """An identifier's name, split at its dots."""
    return tuple(node.get("name_parts") or [node.get("name", "")])


def walk_all(root: object) -> Iterator[Node]:
    """Yield every node below `root`, which may be a list, and `root` itself."""
    pending: list[Any] = [root]
    while pending:
        current = pending.pop()
        if isinstance(current, dict):
            if "type" in current:
                yield current
            pending.extend(current.values())
        elif isinstance(current, list | tuple):
            pending.extend(current)


def walk_select(root: object) -> Iterator[Node]:
    """Yield `root` and the nodes below it that belong to the same SELECT.

    Subqueries in expressions and WITH queries are yielded, but not the nodes inside them. A subquery in FROM is left
    out.
    """
    pending: list[Any] = [root]
    while pending:
        current = pending.pop()
        if isinstance(current, dict):
            if "type" in current:
                yield current
            if current.get("type") not in _SEPARATE_QUERIES:
                pending.extend(value for key, value in current.items() if key != "subquery")
        elif isinstance(current, list | tuple):
            pending.extend(current)
