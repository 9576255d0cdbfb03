"""The work for a text does not grow with it: neither the calls of the parser, nor the visits of each node."""

from __future__ import annotations

from typing import Any

import pytest

from engine.query.failing_constants import failing_constant
from engine.sql.verify import verify
from engine.workspace.workspace import Workspace


class Counted:
    """The engine's parser with a counter of its calls."""

    def __init__(self, workspace: Workspace) -> None:
        self._inner = workspace.warehouse
        self.asked = 0

    def parse(self, sql: str) -> tuple[dict[str, Any], str]:
        self.asked += 1
        return self._inner.parse(sql)

    def format(self, tree: dict[str, Any]) -> str:
        self.asked += 1
        return self._inner.format(tree)

    def functions(self) -> frozenset[str]:
        self.asked += 1
        return self._inner.functions()


@pytest.mark.parametrize(
    "sql",
    [
        " UNION ALL ".join(["SELECT units FROM events"] * 50),
        "SELECT " + ", ".join(f"arrayMap(x -> x + {n}, list{n})" for n in range(50)) + " FROM events",
    ],
)
def test_verification_calls_the_parser_a_bounded_number_of_times(workspace: Workspace, sql: str) -> None:
    parser = Counted(workspace)
    verify(sql, parser, bound=frozenset({"events"}), placeholders={})
    assert parser.asked < 10


def test_each_node_is_visited_once_to_find_failing_constants() -> None:
    visits = 0

    class Node(dict[str, Any]):
        def values(self) -> Any:
            nonlocal visits
            visits += 1
            return super().values()

    tree = Node(type="Identifier", name="k")
    for _ in range(60):
        one = Node(type="Literal", value=1)
        tree = Node(type="Function", arguments=Node(type="ExpressionList", children=[tree, one]))
    assert failing_constant(tree, lambda _: None, 6) is None
    assert visits == 1 + 60 * 3
