"""Offsets: how far the consumers of a landing datasource have read its log, and how that is recorded.

An offset consists of the block number up to which a consumer has received everything, the later batches that it has
also received and, while a delivery runs, the range that it may have received in part. A range is delivered with the
same token until it is known to be complete.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from engine.warehouse.port import Warehouse
from engine.warehouse.registry import Registry

JOURNAL_TABLE = "_rk_journal"


@dataclass(frozen=True, slots=True)
class LogRange:
    """A part of the landing log that is delivered as one block per tenant, with one token."""

    token: str
    """The deduplication token of its block in every nest."""
    after: int
    """All its blocks have greater numbers."""
    upto: int | None = None
    """The last block; None for a range of batches."""
    batches: tuple[str, ...] = ()
    """Ids of the batches in the range; empty for a range of blocks."""
    skipped: tuple[str, ...] = ()
    """Ids of batches that a range of blocks skips."""

    def as_dict(self) -> dict[str, Any]:
        """The stored form, whose keys must not change."""
        return {
            "token": self.token,
            "after": self.after,
            "upto": self.upto,
            "batches": list(self.batches),
            "without": list(self.skipped),
        }

    @staticmethod
    def of(body: Mapping[str, Any]) -> LogRange:
        """Read the stored form."""
        upto = body["upto"]
        return LogRange(
            str(body["token"]),
            int(body["after"]),
            None if upto is None else int(upto),
            tuple(body["batches"]),
            tuple(body["without"]),
        )


@dataclass(frozen=True, slots=True)
class Offset:
    """How far a consumer has read the landing log."""

    epoch: str
    """A random string in the tokens of its ranges, so that two histories of a log never share a token."""
    at: int
    """The consumer has received all blocks up to this number."""
    acked: frozenset[str] = frozenset()
    """Ids of batches in later blocks that it has also received."""
    log_range: LogRange | None = None
    """The range that is being delivered."""

    @staticmethod
    def start(at: int = 0) -> Offset:
        """An offset after block `at`, with a new epoch."""
        return Offset(secrets.token_hex(6), at)

    def began(self, log_range: LogRange) -> Offset:
        """The offset while a range is being delivered."""
        return replace(self, log_range=log_range)

    def finished(self, log_range: LogRange) -> Offset:
        """The offset after a range has been delivered."""
        if log_range.upto is None:
            # Blocks before these batches may be outstanding, so the batches are remembered and `at` stays.
            return replace(self, acked=self.acked | set(log_range.batches), log_range=None)
        # The blocks of the skipped batches are behind the new offset, so these batches need not be remembered.
        return replace(
            self, at=max(self.at, log_range.upto), acked=self.acked - set(log_range.skipped), log_range=None
        )

    def as_dict(self) -> dict[str, Any]:
        log_range = self.log_range.as_dict() if self.log_range else None
        # The keys are those of stored rows. They cannot change with the names of the fields.
        return {"epoch": self.epoch, "at": self.at, "done": sorted(self.acked), "piece": log_range}

    @staticmethod
    def of(body: Mapping[str, Any]) -> Offset:
        log_range = LogRange.of(body["piece"]) if body["piece"] else None
        return Offset(str(body["epoch"]), int(body["at"]), frozenset(body["done"]), log_range)


@dataclass(slots=True)
class ConsumerGroup:
    """Tenants with one offset. A group that fails is retried with growing pauses."""

    offset: Offset
    members: set[str] = field(default_factory=set)
    error: str = ""
    """The last error; empty after a success."""
    tries: int = 0
    """Failures since the last success."""
    due: float = 0.0
    """Monotonic time of the next attempt."""
    since: float = 0.0
    """When the group began to lag, in seconds since 1970."""


class OffsetJournal:
    """The recorded offsets of all landing datasources, in a table of the workspace's database.

    A row's `kind` is the datasource. Its `name` is `main` for the main group, or `t:` and the id of a lagging tenant.
    """

    def __init__(self, warehouse: Warehouse, workspace: str) -> None:
        self._rows = Registry(warehouse, workspace, JOURNAL_TABLE)

    def read(self, datasource: str) -> tuple[Offset | None, dict[str, Offset]]:
        """The main group's offset, and those of lagging tenants."""
        rows = {name: Offset.of(body) for name, body in self._rows.read(datasource).items()}
        main = rows.pop("main", None)
        return main, {name.removeprefix("t:"): offset for name, offset in rows.items()}

    def write(self, datasource: str, main: Offset) -> None:
        """Record the offset of the main group."""
        self._rows.write(datasource, {"main": main.as_dict()})

    def write_lagging(self, datasource: str, tenants: Iterable[str], offset: Offset) -> None:
        """Record the offset of lagging tenants."""
        self._rows.write(datasource, {f"t:{t}": offset.as_dict() for t in tenants})

    def delete(self, datasource: str, tenants: Iterable[str]) -> None:
        """Delete the offsets of tenants that join the main group or leave."""
        self._rows.remove(datasource, [f"t:{t}" for t in tenants])

    def delete_all(self, datasource: str) -> None:
        """Delete all offsets of a datasource that is no longer routed."""
        self._rows.remove(datasource, list(self._rows.read(datasource)))
