"""How far readers of a landing datasource have come, and where that is written down.

The position of a reader is a block number up to which it has everything, the batches after it that it has as well,
and, while one is under way, the piece that it may have in part. A piece is delivered under its token until it is
known to be there whole.
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
    """A part of landing that is delivered as one block per tenant, under one token.

    Either `batches`, by identity, or the blocks after `after` up to `upto`, but for the batches `without`.
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
    """A position in a landing datasource's log. `epoch` is part of the tokens of pieces that are cut by blocks."""

    epoch: str
    at: int
    done: frozenset[str] = frozenset()
    piece: LogRange | None = None

    @staticmethod
    def start(at: int = 0) -> Offset:
        return Offset(secrets.token_hex(6), at)

    def began(self, piece: LogRange) -> Offset:
        return replace(self, piece=piece)

    def finished(self, piece: LogRange) -> Offset:
        """The position after a piece that arrived."""
        if piece.upto is None:
            return replace(self, done=self.done | set(piece.batches), piece=None)
        return replace(self, at=max(self.at, piece.upto), done=self.done - set(piece.without), piece=None)

    def as_dict(self) -> dict[str, Any]:
        piece = self.piece.as_dict() if self.piece else None
        return {"epoch": self.epoch, "at": self.at, "done": sorted(self.done), "piece": piece}

    @staticmethod
    def of(body: Mapping[str, Any]) -> Offset:
        piece = LogRange.of(body["piece"]) if body["piece"] else None
        return Offset(str(body["epoch"]), int(body["at"]), frozenset(body["done"]), piece)


@dataclass(slots=True)
class ConsumerGroup:
    """Tenants that stand at one position. A cohort that fails is tried again after growing pauses."""

    cursor: Offset
    members: set[str] = field(default_factory=set)
    error: str = ""
    tries: int = 0
    due: float = 0.0
    since: float = 0.0


class OffsetJournal:
    """Cursors of all landing datasources, kept in the workspace's own database.

    `kind` of a row is the datasource; its `name` is a tenant's id behind `t:`, or `main`.
    """

    def __init__(self, warehouse: Warehouse, workspace: str) -> None:
        self._rows = Registry(warehouse, workspace, JOURNAL_TABLE)

    def read(self, datasource: str) -> tuple[Offset | None, dict[str, Offset]]:
        """The main cursor, and those of tenants that have one of their own."""
        rows = {name: Offset.of(body) for name, body in self._rows.read(datasource).items()}
        main = rows.pop("main", None)
        return main, {name.removeprefix("t:"): cursor for name, cursor in rows.items()}

    def write(self, datasource: str, main: Offset) -> None:
        self._rows.write(datasource, {"main": main.as_dict()})

    def write_own(self, datasource: str, tenants: Iterable[str], cursor: Offset) -> None:
        self._rows.write(datasource, {f"t:{t}": cursor.as_dict() for t in tenants})

    def strike(self, datasource: str, tenants: Iterable[str]) -> None:
        self._rows.remove(datasource, [f"t:{t}" for t in tenants])

    def strike_all(self, datasource: str) -> None:
        self._rows.remove(datasource, list(self._rows.read(datasource)))
