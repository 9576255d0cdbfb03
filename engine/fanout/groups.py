"""Who stands where: the tenants that keep up with a landing datasource, and those that are new or have failed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from engine.errors import APPLY_FAILED, RookeryError
from engine.fanout.offsets import ConsumerGroup, Offset

MAX_RETRY_SECONDS = 60.0


class ConsumerGroups:
    """The main cohort and the strays. `changed` is the condition that is told of every change, and guards them."""

    def __init__(self, changed: threading.Condition) -> None:
        self.changed = changed
        self.main = ConsumerGroup(Offset.start())
        self.lagging: list[ConsumerGroup] = []

    def begin(self, main: Offset, members: set[str], lagging: Mapping[Offset, set[str]]) -> None:
        """Take up positions that were written down."""
        with self.changed:
            self.main = ConsumerGroup(main, members)
            self.lagging = [ConsumerGroup(c, set(m), since=time.time()) for c, m in lagging.items()]

    def add(self, tenants: Sequence[str], cursor: Offset) -> None:
        """Let tenants go on by themselves from a position."""
        with self.changed:
            self.remove(tenants)
            self.lagging.append(ConsumerGroup(cursor, set(tenants), since=time.time()))
            self.changed.notify_all()

    def remove(self, tenants: Iterable[str]) -> None:
        """Know tenants no longer."""
        with self.changed:
            gone = set(tenants)
            self.main.members -= gone
            for group in list(self.lagging):
                group.members -= gone
                if not group.members:
                    self.lagging.remove(group)

    def part(self, group: ConsumerGroup, failed: Mapping[str, str]) -> None:
        """Let each failed member of a cohort go on by itself, after a pause that doubles with each failure."""
        with self.changed:
            for tenant, why in failed.items():
                alone = ConsumerGroup(group.cursor, {tenant}, why, group.tries + 1, since=group.since or time.time())
                alone.due = time.monotonic() + min(MAX_RETRY_SECONDS, 2.0 ** (alone.tries - 1))
                self.lagging.append(alone)
            group.members -= failed.keys()
            if not group.members and group in self.lagging:
                self.lagging.remove(group)

    def join(self, group: ConsumerGroup) -> None:
        """Make a stray cohort, which stands where the main one does, part of it."""
        with self.changed:
            if group in self.lagging:
                self.lagging.remove(group)
                self.main.members |= group.members
            self.changed.notify_all()

    def due(self) -> list[ConsumerGroup]:
        """Strays whose next try is due."""
        now = time.monotonic()
        with self.changed:
            return [c for c in self.lagging if c.due <= now]

    def next_due(self) -> float:
        """Seconds until the next try of a stray; infinite without one."""
        now = time.monotonic()
        return min((max(0.0, c.due - now) for c in self.lagging), default=float("inf"))

    def among(self, tenants: set[str]) -> tuple[set[str], set[str]]:
        """Those of the tenants that keep up, and those that are behind."""
        with self.changed:
            behind = set[str]().union(*(c.members & tenants for c in self.lagging))
            return tenants & self.main.members, behind

    def retry_now(self) -> None:
        """Let strays try again at once."""
        with self.changed:
            for group in self.lagging:
                group.due = 0.0
            self.changed.notify_all()

    def copy(self) -> tuple[ConsumerGroup, list[ConsumerGroup]]:
        """The main cohort and the strays at this moment."""
        with self.changed:
            found = [replace(c, members=set(c.members)) for c in (self.main, *self.lagging)]
        return found[0], found[1:]

    def in_doubt(self, tenant: str) -> set[str]:
        """Tokens of noted pieces that will be delivered to a tenant again."""
        with self.changed:
            cursors = [c.cursor for c in (self.main, *self.lagging) if tenant in c.members]
        return {c.piece.token for c in cursors if c.piece is not None}

    def wait_for(
        self,
        tenants: Iterable[str],
        patience: float,
        progress: Callable[[int, int], None],
        closed: Callable[[], bool],
    ) -> None:
        """Wait until tenants keep up. Raises RK3010 with what keeps one of them from it, or after the patience."""
        wanted = set(tenants)
        deadline = time.monotonic() + patience
        with self.changed:
            # What failed before, perhaps for want of a table that is there by now, is tried again at once.
            for group in self.lagging:
                if group.members & wanted:
                    group.error, group.due = "", 0.0
            self.changed.notify_all()
        while True:
            with self.changed:
                missing = wanted - self.main.members
                failed = next((c for c in self.lagging if c.error and c.members & missing), None)
                if failed is not None:
                    raise RookeryError(
                        APPLY_FAILED,
                        f"the tables of tenant `{min(failed.members)}` do not take its rows",
                        hint="the others go on; it is tried again by itself: rookery fanout status",
                        detail=failed.error,
                    )
                if not missing or closed():
                    return
                self.changed.wait(0.05)
            progress(len(wanted) - len(missing), len(wanted))
            if time.monotonic() > deadline:
                raise RookeryError(
                    APPLY_FAILED, "tenants have not caught up yet; they go on to", hint="rookery fanout status"
                )
