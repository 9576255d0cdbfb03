"""Delivers a landing datasource to its lagging groups, range by range, until they join the main group."""

from __future__ import annotations

import time

from engine.fanout.groups import ConsumerGroups
from engine.fanout.log_steps import catch_up_range, without_vanished
from engine.fanout.main_delivery import MainDelivery
from engine.fanout.nest_writer import NestWriter
from engine.fanout.offsets import ConsumerGroup, LogRange, OffsetJournal

JOIN_PAUSE_SECONDS = 0.02
"""Pause before a group that has all rows, but not the offset of the main group, is checked again."""


class CatchUp:
    """Delivers to lagging groups. Only the worker's thread calls it, with the delivery lock held."""

    def __init__(self, nests: NestWriter, journal: OffsetJournal, groups: ConsumerGroups, main: MainDelivery) -> None:
        self._nests = nests
        self._datasource = nests.datasource
        self._journal = journal
        self._groups = groups
        self._main = main

    def step(self, group: ConsumerGroup) -> None:
        """Deliver one range to a group, or merge the group into the main one if it has caught up."""
        main = self._groups.main
        if main.offset.acked and group.offset.at >= main.offset.at:
            # Groups can only join at a block number, so the main group's offset must become one.
            self._main.poll()
        log_range = group.offset.log_range or self._next_range(group)
        if log_range is None:
            self._join(group)
            return
        if group.offset.log_range is None:
            # Recorded before the delivery: after a kill, it is repeated under the same token.
            group.offset = group.offset.began(log_range)
            self._journal.write_lagging(self._datasource, group.members, group.offset)
        failed = self._nests.insert_range_for(log_range, set(group.members))
        # Tenants may have been removed during the delivery; then the group may be empty and dropped.
        self._groups.separate(group, {t: why for t, why in failed.items() if t in group.members})
        if not group.members:
            return
        group.offset = group.offset.finished(log_range)
        group.error, group.tries = "", 0
        self._journal.write_lagging(self._datasource, group.members, group.offset)
        if group.offset.at == main.offset.at:
            # Done immediately, because the next delivery of batches would advance the main group again.
            self._join(group)

    def _next_range(self, group: ConsumerGroup) -> LogRange | None:
        """The next range that the main group has received and this group has not. Skips blocks that it already
        has.
        """
        goal = self._groups.main.offset.at
        while group.offset.at < goal:
            following = catch_up_range(self._nests.log().blocks(group.offset.at), group.offset, goal)
            if isinstance(following, LogRange):
                return following
            group.offset = following
        if group.offset.acked:
            group.offset = without_vanished(self._nests.log().blocks(group.offset.at), group.offset)
        return None

    def _join(self, group: ConsumerGroup) -> None:
        """Merge a group that has the offset of the main group into it. Any other group is checked again soon."""
        main = self._groups.main.offset
        if main.acked or group.offset.acked or group.offset.at != main.at:
            group.due = time.monotonic() + JOIN_PAUSE_SECONDS
            return
        # Deleted first: after a kill at this point, the tenants have no offset of their own, so they are in the main
        # group.
        self._journal.delete(self._datasource, group.members)
        self._groups.join(group)
