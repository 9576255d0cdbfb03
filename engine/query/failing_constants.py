"""Names the part of a caller's own SQL that fails without any row.

A caller who may not read all rows gets a fixed text in place of the engine's message, which does not say where the
fault is. A call whose arguments are constants fails whatever the rows are. So the calls in the caller's SQL are
evaluated in statements without tables. What they show depends on nothing but the text that the caller has sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

from engine.errors import RookeryError
from engine.sql.tree import Node, members, walk_all
from engine.warehouse.errors import EngineError
from engine.warehouse.port import Stream

MAX_CALLS = 4
"""Calls that are evaluated at most, from the inside to the outside."""
MAX_SHOWN_CHARACTERS = 120
_CONSTANT = frozenset({"Function", "Literal", "ExpressionList"})


def failing_constant(tree: Node, fails_with: Callable[[Node], int | None], code: int) -> Node | None:
    """The first call of constants in the tree that fails with the engine's error number `code`.

    `fails_with` evaluates a call and returns its error number, None if it does not fail.
    """
    calls = [node for node in _calls(tree) if _is_of_constants(node)]
    return next((call for call in calls[:MAX_CALLS] if fails_with(call) == code), None)


def _is_of_constants(node: Node) -> bool:
    """Whether a node is a call with arguments, all of which are constants."""
    is_call = node.get("type") == "Function" and bool(members(node.get("arguments")))
    return is_call and all(n["type"] in _CONSTANT for n in walk_all(node))


def error_number(result: Stream) -> int | None:
    """The engine's number of the error with which a query fails; None without one."""
    try:
        with closing(result):
            for _ in result:
                pass
    except RookeryError as exc:
        return exc.engine_code if isinstance(exc, EngineError) else None
    return None


def _calls(node: object) -> Iterator[Node]:
    """All calls below a node, inner ones first."""
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    for child in children:
        yield from _calls(child)
    if isinstance(node, dict) and node.get("type") == "Function":
        yield node
