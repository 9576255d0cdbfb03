"""Consumer groups of one landing datasource: the tenants by how far they have read its log."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from engine.errors import APPLY_FAILED, STOPPING, RookeryError
from engine.fanout.offsets import ConsumerGroup, Offset

MAX_RETRY_SECONDS = 60.0
"""Longest pause between two attempts of a lagging group."""


class ConsumerGroups:
    """The main group, which keeps up with landing, and the lagging groups.

    The worker's thread moves tenants between groups; other threads add, remove and inspect them. `changed` protects
    all fields and is notified of every change.
    """

    def __init__(self, changed: threading.Condition) -> None:
        self.changed = changed
        self.main = ConsumerGroup(Offset.start())
        self.lagging: list[ConsumerGroup] = []

    def restore(self, main: Offset, members: set[str], lagging: Mapping[Offset, set[str]]) -> None:
        """Set the groups to recorded offsets, before the worker starts."""
        with self.changed:
            self.main = ConsumerGroup(main, members)
            self.lagging = [ConsumerGroup(o, set(m), since=time.time()) for o, m in lagging.items()]

    def add(self, tenants: Sequence[str], offset: Offset) -> None:
        """Add tenants as a lagging group with an offset."""
        with self.changed:
            # A tenant is in at most one group: two groups would deliver its rows twice, with different tokens.
            self.remove(tenants)
            self.lagging.append(ConsumerGroup(offset, set(tenants), since=time.time()))
            self.changed.notify_all()

    def remove(self, tenants: Iterable[str]) -> None:
        """Remove tenants from all groups."""
        with self.changed:
            removed = set(tenants)
            self.main.members -= removed
            for group in list(self.lagging):
                group.members -= removed
                if not group.members:
                    self.lagging.remove(group)

    def separate(self, group: ConsumerGroup, failed: Mapping[str, str]) -> None:
        """Give each failed member a group of its own, whose next attempt waits twice as long after each failure."""
        with self.changed:
            for tenant, why in failed.items():
                alone = ConsumerGroup(group.offset, {tenant}, why, group.tries + 1, since=group.since or time.time())
                # 1, 2, 4 … seconds.
                alone.due = time.monotonic() + min(MAX_RETRY_SECONDS, 2.0 ** (alone.tries - 1))
                self.lagging.append(alone)
            group.members -= failed.keys()
            if not group.members and group in self.lagging:
                self.lagging.remove(group)

    def join(self, group: ConsumerGroup) -> None:
        """Merge a lagging group into the main group, whose offset it has reached."""
        with self.changed:
            if group in self.lagging:
                self.lagging.remove(group)
                self.main.members |= group.members
            self.changed.notify_all()

    def due(self) -> list[ConsumerGroup]:
        """Lagging groups whose next attempt is due."""
        now = time.monotonic()
        with self.changed:
            return [g for g in self.lagging if g.due <= now]

    def next_due(self) -> float:
        """Seconds until the next attempt of a lagging group; infinite without one."""
        now = time.monotonic()
        return min((max(0.0, g.due - now) for g in self.lagging), default=float("inf"))

    def split(self, tenants: set[str]) -> tuple[set[str], set[str]]:
        """The tenants that are in the main group, and those that are lagging."""
        with self.changed:
            behind = set[str]().union(*(g.members & tenants for g in self.lagging))
            return tenants & self.main.members, behind

    def retry_now(self) -> None:
        """Make every lagging group's attempt due now."""
        with self.changed:
            for group in self.lagging:
                group.due = 0.0
            self.changed.notify_all()

    def copy(self) -> tuple[ConsumerGroup, list[ConsumerGroup]]:
        """Copies of the main group and of the lagging groups."""
        with self.changed:
            main, *lagging = [replace(group, members=set(group.members)) for group in (self.main, *self.lagging)]
        return main, lagging

    def pending_tokens(self, tenant: str) -> set[str]:
        """Tokens of recorded ranges that will be delivered to a tenant again."""
        with self.changed:
            offsets = [g.offset for g in (self.main, *self.lagging) if tenant in g.members]
        return {g.log_range.token for g in offsets if g.log_range is not None}

    def wait_for(
        self,
        tenants: Iterable[str],
        timeout_seconds: float,
        progress: Callable[[int, int], None],
        closed: Callable[[], bool],
    ) -> None:
        """Wait until tenants are in the main group. Raises RK3010 when one fails, or after the timeout, and RK4041
        when the worker has been closed: what follows may rely on the rows.
        """
        awaited = set(tenants)
        deadline = time.monotonic() + timeout_seconds
        with self.changed:
            # Retry immediately: the cause may have been a missing table that now exists.
            for group in self.lagging:
                if group.members & awaited:
                    group.error, group.due = "", 0.0
            self.changed.notify_all()
        while True:
            with self.changed:
                missing = awaited - self.main.members
                failed = next((g for g in self.lagging if g.error and g.members & missing), None)
                if failed is not None:
                    raise RookeryError(
                        APPLY_FAILED,
                        f"the tables of tenant `{min(failed.members)}` refuse its rows",
                        hint="delivery to other tenants continues, and this one is retried: rookery fanout status",
                        detail=failed.error,
                    )
                if not missing:
                    return
                if closed():
                    raise RookeryError(STOPPING, STOPPING.title, hint="run the command again")
                # With a timeout, to report progress even if no group changes.
                self.changed.wait(0.05)
            progress(len(awaited) - len(missing), len(awaited))
            if time.monotonic() > deadline:
                raise RookeryError(
                    APPLY_FAILED,
                    "tenants have not caught up in time; delivery continues",
                    hint="rookery fanout status",
                )
