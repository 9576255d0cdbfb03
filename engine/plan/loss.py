"""Determines what a change loses: whether a dropped table can be recomputed in full, and whether values fit a new
type.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import replace

from engine.plan.steps import ROWS, Loss, Step
from engine.schema import Name, Schema, Table, View

_NUMBER = re.compile(r"(U?Int|Float)(\d+)")


class Losses:
    """Decides for each rebuilt table whether its rows are recomputed or lost.

    Rows are lost if no remaining view feeds the table, if a view that is gone has fed it, or if a source may have
    lost rows that the table was made from.
    """

    def __init__(
        self,
        desired: Schema,
        live: Schema,
        sizes: Callable[[Name], int],
        why_incomplete: Callable[[View], str | None],
        routed: Collection[str] = (),
    ) -> None:
        self._live = live
        self._sizes = sizes
        self._why_incomplete = why_incomplete
        self._routed = routed
        self._known: dict[Name, str | None] = {}
        self._feeders: dict[Name, list[View]] = {}
        for view in desired.views.values():
            self._feeders.setdefault(view.target, []).append(view)

    def annotate(self, rebuilt: dict[Name, Step]) -> None:
        """Set loss and cost in the steps of rebuilt tables. A loss always makes the step destructive."""
        for name, step in rebuilt.items():
            why = self._why_lost(name, rebuilt) if self._sizes(name) else None
            size = self._sizes(name)
            if why is not None:
                effect = f"drops {ROWS}, and loses those that cannot be recomputed: {why}"
                rebuilt[name] = replace(step, destructive=True, effect=effect, loss="lost", rows=size)
            else:
                loss: Loss = "recomputed" if size else "none"
                effect = f"drops and recomputes {ROWS}" if size else ""
                rebuilt[name] = replace(step, effect=effect, loss=loss, rows=size)

    def _why_lost(self, name: Name, rebuilt: dict[Name, Step]) -> str | None:
        if name in self._known:
            return self._known[name]
        # Ends the recursion if a table is derived from itself.
        self._known[name] = None
        why = self._known[name] = self._find_reason(name, rebuilt)
        return why

    def _find_reason(self, name: Name, rebuilt: dict[Name, Step]) -> str | None:
        """Why rows of a table are lost when it is rebuilt; None if all of them are recomputed."""
        feeders = self._feeders.get(name, [])
        table = self._live.tables[name]
        if table.mark is not None and table.mark.tenant is not None and name.name in self._routed:
            # The fan-out fills it from the beginning of the landing log.
            log = self._live.tables.get(Name(table.mark.workspace, name.name))
            if log is None:
                return f"{name.name} is gone"
            return None if log.ttl == table.ttl else f"{log.name.name} has a TTL of its own"
        if not feeders:
            return "nothing feeds it, so it cannot be rebuilt"
        live = {v.name.name for v in self._live.views.values() if v.target == name}
        former = {*live, *(table.mark.feeders if table.mark else ())} - {v.name.name for v in feeders}
        if former:
            return f"{min(former)} has also fed it and is no longer declared"
        for view in feeders:
            source = view.log or view.source
            if source in rebuilt:
                why = self._why_lost(source, rebuilt) if self._sizes(source) else None
            elif self._copies(table, view):
                why = None
            else:
                why = self._why_incomplete(view) if source in self._live.tables else f"{source.name} is gone"
            if why is not None:
                return why
        return None

    def _copies(self, table: Table, view: View) -> bool:
        """Whether a view copies whole rows into a table with the same TTL, so that both tables lose the same rows."""
        source = self._live.tables.get(view.source)
        copied = view.mark is not None and view.mark.fingerprint.startswith("copy:")
        return copied and source is not None and bool(source.ttl) and source.ttl == table.ttl


def widens(old: str, new: str) -> bool:
    """Whether every value of the old type is also valid in the new type, according to the names of the types."""
    old, new = _plain(old, "LowCardinality"), _plain(new, "LowCardinality")
    if new.startswith("Nullable("):
        old, new = _plain(old, "Nullable"), _plain(new, "Nullable")
    if old == new or new == "String":
        return True
    was, becomes = _NUMBER.fullmatch(old), _NUMBER.fullmatch(new)
    if was is None or becomes is None or was[1] != becomes[1]:
        return False
    return int(was[2]) <= int(becomes[2])


def _plain(type: str, wrapper: str) -> str:
    """A type without its outer wrapper, such as Nullable."""
    return type[len(wrapper) + 1 : -1] if type.startswith(f"{wrapper}(") else type
