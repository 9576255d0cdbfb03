"""Names the part of a caller's own SQL that fails without any row.

A caller who may not read all rows gets a fixed text in place of the engine's message, which does not say where the
fault is. A call whose arguments are constants fails whatever the rows are. So the calls in the caller's SQL are
evaluated in statements without tables. What they show depends on nothing but the text that the caller has sent.
"""

from __future__ import annotations

from collections.abc import Callable

from engine.sql.tree import Node, members

MAX_CALLS = 4
"""Calls that are evaluated at most, from the inside to the outside."""
MAX_SHOWN_CHARACTERS = 120
_CONSTANT = frozenset({"Function", "Literal", "ExpressionList"})


def failing_constant(tree: Node, fails_with: Callable[[Node], int | None], code: int) -> Node | None:
    """The first call of constants in the tree that fails with the engine's error number `code`.

    `fails_with` evaluates a call and returns its error number, None if it does not fail.
    """
    calls: list[Node] = []
    _add_calls(tree, calls)
    return next((call for call in calls[:MAX_CALLS] if fails_with(call) == code), None)


def _add_calls(node: object, calls: list[Node]) -> bool:
    """Add the calls below a node with arguments, all of which are constants, inner ones first. Returns whether all of
    the node is constant.

    Looks at each node once: a text has thousands, and many levels.
    """
    is_constant = True
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        is_constant = _add_calls(child, calls) and is_constant
    if isinstance(node, dict) and "type" in node:
        is_constant = is_constant and node["type"] in _CONSTANT
        if is_constant and node["type"] == "Function" and members(node.get("arguments")):
            calls.append(node)
    return is_constant
