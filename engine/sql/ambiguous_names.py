"""Names whose meaning depends on the aliases of the whole text, so that it is known only at the end of the walk.

A bare name on the right of IN means an alias if there is one, and otherwise a table. Any other bare name means an
alias or a column, and otherwise the engine calls a function of that name. An alias is visible before its definition.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from engine.errors import FUNCTION_REFUSED, RookeryError
from engine.sql.context import Context
from engine.sql.tree import Node


class AmbiguousNames:
    """Collects names whose meaning depends on aliases, and all aliases, while one tree is walked. Resolves the names
    afterwards.
    """

    def __init__(self) -> None:
        # How many items define an alias, by number of the SELECT.
        self._aliases: Counter[tuple[int, str]] = Counter()
        self._memberships: list[tuple[str, Context]] = []
        self._calls: list[tuple[Node, Context]] = []

    def note_alias(self, alias: str, context: Context) -> None:
        self._aliases[context.select_number, alias] += 1

    def note_membership(self, name: str, context: Context) -> None:
        """Record the right side of `IN name`."""
        self._memberships.append((name, context))

    def note_call(self, node: Node, context: Context) -> None:
        """Record an identifier that may call a refused function."""
        self._calls.append((node, context))

    def tables(self, bound: frozenset[str]) -> Iterator[tuple[str, Context]]:
        """The names on the right of IN that may mean a table. For a bound name, an alias does not rule that out."""
        aliases = {alias for _, alias in self._aliases}
        for name, context in self._memberships:
            if name not in aliases or name in bound:
                yield name, context

    def qualifiers(self) -> list[tuple[Node, str]]:
        """The identifiers that must be qualified to mean a column, each with the table that qualifies it.

        Raises FUNCTION_REFUSED if the name may also mean an alias, or if there are several tables: then only the
        author knows what is meant.
        """
        qualified: list[tuple[Node, str]] = []
        for node, context in self._calls:
            name = node["name"]
            # In `user AS user`, the alias of the item itself does not count.
            others = self._aliases[context.select_number, name] - (context.item_alias == name)
            if context.only_table is None or others:
                raise RookeryError(
                    FUNCTION_REFUSED,
                    f"`{name}` may mean a function that is not allowed",
                    hint=f"qualify the column with its table or subquery, as in `e.{name}` after `FROM (…) AS e`, or "
                    "choose another alias",
                )
            if all(node is not n for n, _ in qualified):
                qualified.append((node, context.only_table))
        return qualified
