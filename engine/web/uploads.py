"""Files of any size on their way in: cut into batches while they arrive, stored batch by batch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request

from engine.errors import BAD_REQUEST, RookeryError
from engine.serve.batch import Outcome
from engine.serve.bodies import Cutter
from engine.warehouse.port import Input
from engine.web.requests import append_body, opened_chunks
from engine.web.state import State

AHEAD = 2
"""Batches of one upload that are under way at once."""
UNLIMITED = 1 << 60


class Upload:
    """One file for one datasource.

    Batches are cut at the same places whenever the same bytes come, so that under a key a repeated upload goes on
    where the first one stopped: each batch has a key of its own.
    """

    def __init__(self, state: State, name: str, bound: str | None, format: Input, key: str | None) -> None:
        self._state = state
        self._name = name
        self._bound = bound
        self._format = format
        self._key = key
        self._rows = 0
        self._quarantined = 0
        self._batches = 0

    async def append(self, request: Request) -> dict[str, Any]:
        """Append the request's rows. A failure says how many batches are stored."""
        under_way: list[asyncio.Future[Outcome]] = []
        try:
            with self._state.gateway.room() as room:
                async for batch in self._pieces(request):
                    room.take(len(batch))
                    under_way.append(asyncio.wrap_future(self._send(batch)))
                    if len(under_way) >= AHEAD:
                        self._count(await under_way.pop(0))
                        room.leave()
                        room.take(sum(1 for _ in under_way) * len(batch))
                for waiting in under_way:
                    self._count(await waiting)
        except RookeryError as exc:
            raise self._told(exc) from exc
        finally:
            for waiting in under_way:
                waiting.add_done_callback(lambda f: f.cancelled() or f.exception())
        return self._answer()

    def _send(self, batch: bytes) -> Any:
        self._batches += 1
        key = f"{self._key}#{self._batches}" if self._key else None
        return self._state.gateway.append(self._name, batch, self._format, self._bound, key)

    def _count(self, outcome: Outcome) -> None:
        self._rows += outcome.rows
        self._quarantined += outcome.quarantined

    async def _pieces(self, request: Request) -> AsyncIterator[bytes]:
        """The body in batches. A Parquet file has its directory at the end, so it is taken whole."""
        with self._state.gateway.room() as room:
            if self._format is Input.PARQUET:
                body = await append_body(request, self._state.workspace.settings.max_body, room)
                if body:
                    yield body
                return
            cutter = Cutter("csv" if self._format is Input.CSV else "ndjson")
            async for chunk in opened_chunks(request, UNLIMITED, room):
                for batch in cutter.feed(chunk):
                    yield batch
                    room.leave()
            for batch in cutter.finish():
                yield batch

    def _told(self, exc: RookeryError) -> RookeryError:
        if not self._rows and not self._quarantined:
            return exc
        hint = f"{self._rows:,} rows are stored; with an Idempotency-Key the upload can be repeated as it is"
        return RookeryError(exc.code, exc.message, hint=hint, detail=exc.detail, headers=exc.headers)

    def _answer(self) -> dict[str, Any]:
        error: str | bool = False
        if self._quarantined:
            error = f"{self._quarantined:,} rows went to quarantine: rookery quarantine ls {self._name}"
        return {
            "datasource": self._name,
            "import_id": self._key,
            "rows": self._rows,
            "invalid_lines": 0,
            "quarantine_rows": self._quarantined,
            "error": error,
        }

    async def replace(self, request: Request) -> dict[str, Any]:
        """Put the request's rows in the place of all that are there."""
        raise RookeryError(BAD_REQUEST, "mode=replace is not known")
