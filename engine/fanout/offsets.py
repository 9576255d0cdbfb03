"""Offsets: how far the consumers of a landing datasource have read its log, and where that is recorded.

An offset is a block number up to which a consumer has everything, the batches after it that it has as well, and,
while a delivery runs, the range that it may have in part. A range is delivered under the same token until all of it
is known to have arrived.
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
    """A part of the landing log that is delivered as one block per tenant, under one token.

    Either `batches`, by id, or the blocks after `after` up to `upto` except for the batches `without`.
    """

    token: str
    after: int
    upto: int | None = None
    batches: tuple[str, ...] = ()
    without: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return {
            "token": self.token,
            "after": self.after,
            "upto": self.upto,
            "batches": list(self.batches),
            "without": list(self.without),
        }

    @staticmethod
    def of(body: Mapping[str, Any]) -> LogRange:
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
    """A position in the landing log. `epoch` is part of the tokens of ranges that are cut by blocks."""

    epoch: str
    at: int
    done: frozenset[str] = frozenset()
    log_range: LogRange | None = None

    @staticmethod
    def start(at: int = 0) -> Offset:
        return Offset(secrets.token_hex(6), at)

    def began(self, log_range: LogRange) -> Offset:
        return replace(self, log_range=log_range)

    def finished(self, log_range: LogRange) -> Offset:
        """The offset after a range has arrived."""
        if log_range.upto is None:
            return replace(self, done=self.done | set(log_range.batches), log_range=None)
        return replace(self, at=max(self.at, log_range.upto), done=self.done - set(log_range.without), log_range=None)

    def as_dict(self) -> dict[str, Any]:
        log_range = self.log_range.as_dict() if self.log_range else None
        return {"epoch": self.epoch, "at": self.at, "done": sorted(self.done), "piece": log_range}

    @staticmethod
    def of(body: Mapping[str, Any]) -> Offset:
        log_range = LogRange.of(body["piece"]) if body["piece"] else None
        return Offset(str(body["epoch"]), int(body["at"]), frozenset(body["done"]), log_range)


@dataclass(slots=True)
class ConsumerGroup:
    """Tenants with one offset. A group that fails is retried after growing pauses.

    `error` is the last failure, `tries` their number, `due` the monotonic time of the next attempt, `since` the time
    at which the group began to lag (seconds since 1970).
    """

    offset: Offset
    members: set[str] = field(default_factory=set)
    error: str = ""
    tries: int = 0
    due: float = 0.0
    since: float = 0.0


class OffsetJournal:
    """Offsets of all landing datasources, kept in the workspace's own database.

    `kind` of a row is the datasource; its `name` is a tenant's id behind `t:`, or `main`.
    """

    def __init__(self, warehouse: Warehouse, workspace: str) -> None:
        self._rows = Registry(warehouse, workspace, JOURNAL_TABLE)

    def read(self, datasource: str) -> tuple[Offset | None, dict[str, Offset]]:
        """The main group's offset, and those of lagging tenants."""
        rows = {name: Offset.of(body) for name, body in self._rows.read(datasource).items()}
        main = rows.pop("main", None)
        return main, {name.removeprefix("t:"): offset for name, offset in rows.items()}

    def write(self, datasource: str, main: Offset) -> None:
        self._rows.write(datasource, {"main": main.as_dict()})

    def write_lagging(self, datasource: str, tenants: Iterable[str], offset: Offset) -> None:
        self._rows.write(datasource, {f"t:{t}": offset.as_dict() for t in tenants})

    def delete(self, datasource: str, tenants: Iterable[str]) -> None:
        self._rows.remove(datasource, [f"t:{t}" for t in tenants])

    def delete_all(self, datasource: str) -> None:
        self._rows.remove(datasource, list(self._rows.read(datasource)))
