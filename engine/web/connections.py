"""HTTP connections with bounds: on what a request's head may hold, how slow a client may be, and how many there are.

Bytes are counted as they arrive, so a head that never ends costs no more than its limit. Deadlines are plain
attributes that one timer per server looks at; a request pays nothing for them.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

import orjson
import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from engine.errors import (
    BAD_HTTP,
    HEAD_TOO_LARGE,
    REQUEST_LINE_TOO_LONG,
    TOO_MANY_CONNECTIONS,
    TOO_SLOW,
    Code,
    RookeryError,
)
from engine.settings import Settings
from engine.web.errors import error_body

log = logging.getLogger("rookery.connections")

RESPONSE_HEADERS = (("cache-control", "no-store"), ("x-content-type-options", "nosniff"))
"""Headers of every answer: answers are one caller's own, their URLs may hold tokens, and rows are no scripts."""
MIN_BODY_BYTES_PER_SECOND = 500
"""Bytes a second below which a body uses up its time."""
LINGER_SECONDS = 2.0
LINGER_BYTES = 1 << 20
"""What a refused client may still send before its connection is cut, so that it can read why."""


class Phase(Enum):
    """What a connection waits for."""

    HEAD = auto()
    BODY = auto()
    ANSWER = auto()
    IDLE = auto()
    REFUSED = auto()


@dataclass(slots=True)
class Bounds:
    """The limits of all connections of one server, who is connected, and the timer that ends what is overdue."""

    settings: Settings
    open: dict[GuardedProtocol, str] = field(default_factory=dict)
    by_address: Counter[str] = field(default_factory=Counter)
    timer: asyncio.TimerHandle | None = None

    def enter(self, connection: GuardedProtocol, address: str) -> bool:
        """Count a new connection; whether there is room for it."""
        most = self.settings.max_connections_per_address
        fits = len(self.open) < self.settings.max_connections and (not most or self.by_address[address] < most)
        self.open[connection] = address
        self.by_address[address] += 1
        if self.timer is None:
            self._later(connection.loop)
        return fits

    def leave(self, connection: GuardedProtocol) -> None:
        address = self.open.pop(connection, None)
        if address is not None:
            self.by_address[address] -= 1
            if not self.by_address[address]:
                del self.by_address[address]

    def _later(self, loop: asyncio.AbstractEventLoop) -> None:
        limits = self.settings
        shortest = min(limits.header_seconds, limits.body_seconds, limits.idle_seconds, limits.send_seconds)
        self.timer = loop.call_later(min(1.0, shortest / 4), self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self.timer = None
        now = loop.time()
        for connection in list(self.open):
            connection.look(now)
        if self.open:
            self._later(loop)


class _RefusedError(Exception):
    """A request that goes no further; what the client hears of it."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code


class GuardedProtocol(HttpToolsProtocol):
    """One connection, which ends when its client sends too much, too slowly or nothing."""

    bounds: Bounds

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._phase = Phase.HEAD
        self._deadline = 0.0
        self._send_deadline = 0.0
        self._head_size = 0
        self._begun = False
        # Bytes since the parser last handed something over: it keeps those of an unfinished line.
        self._unseen = 0
        self._refusal: _RefusedError | None = None
        self._left = LINGER_BYTES

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await(Phase.HEAD, self.bounds.settings.header_seconds)
        if not self.bounds.enter(self, self.client[0] if self.client else ""):
            self._refuse(TOO_MANY_CONNECTIONS, TOO_MANY_CONNECTIONS.title, retry=True)

    def connection_lost(self, exc: Exception | None) -> None:
        self.bounds.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._phase is Phase.REFUSED:
            self._left -= len(data)
            if self._left < 0:
                self.transport.abort()
            return
        if self._phase is Phase.IDLE:
            self._await(Phase.HEAD, self.bounds.settings.header_seconds)
        self._unseen += len(data)
        super().data_received(data)
        if self._unseen > self.bounds.settings.max_header_bytes and not self._refused:
            self._refuse(HEAD_TOO_LARGE, self._too_large())

    # Parser callbacks: what they raise ends the parsing, and `send_400_response` answers.
    def on_message_begin(self) -> None:
        self._unseen = self._head_size = 0
        self._begun = True
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._unseen = 0
        super().on_url(url)
        most = self.bounds.settings.max_request_line
        if len(self.url) > most:
            self._stop(REQUEST_LINE_TOO_LONG, f"the request line is longer than {most:,} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._unseen = 0
        limits = self.bounds.settings
        self._head_size += len(name) + len(value) + 4
        if self._head_size > limits.max_header_bytes:
            self._stop(HEAD_TOO_LARGE, self._too_large())
        if len(self.headers) >= limits.max_headers:
            self._stop(HEAD_TOO_LARGE, f"the request has more than {limits.max_headers} headers")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._unseen = 0
        super().on_headers_complete()
        self._await(Phase.BODY, self.bounds.settings.body_seconds)

    def on_chunk_header(self) -> None:
        self._unseen = 0

    def on_body(self, body: bytes) -> None:
        self._unseen = 0
        latest = self.loop.time() + self.bounds.settings.body_seconds
        self._deadline = min(self._deadline + len(body) / MIN_BODY_BYTES_PER_SECOND, latest)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._begun = False
        if self.cycle is not None and self.cycle.response_complete:
            self._await(Phase.IDLE, self.bounds.settings.idle_seconds)
        else:
            self._await(Phase.ANSWER, None)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._phase is Phase.ANSWER and not self.pipeline and self.cycle.response_complete:
            self._await(Phase.IDLE, self.bounds.settings.idle_seconds)

    def send_400_response(self, msg: str) -> None:
        found = self._refusal
        if found is not None:
            self._refuse(found.code, str(found))
        elif not self._refused:
            self._refuse(BAD_HTTP, "the request is not valid HTTP")

    def pause_writing(self) -> None:
        super().pause_writing()
        self._send_deadline = self.loop.time() + self.bounds.settings.send_seconds

    def resume_writing(self) -> None:
        super().resume_writing()
        self._send_deadline = 0.0

    def look(self, now: float) -> None:
        """End the connection if what it waits for is overdue."""
        if self._send_deadline and now > self._send_deadline:
            self.transport.abort()
        elif self._deadline and now > self._deadline:
            self._overdue(now)

    def _overdue(self, now: float) -> None:
        if self._phase is Phase.BODY and self.flow.read_paused:
            # The server is what is slow here.
            self._deadline = now + self.bounds.settings.body_seconds
        elif self._begun:
            self._refuse(TOO_SLOW, f"the request's {self._phase.name.lower()} came too slowly")
        else:
            self.transport.abort()

    def _may_answer(self) -> bool:
        """Whether what is sent now would be read as the answer to the request that is being received."""
        if self.cycle is None or self.pipeline:
            return not self.pipeline
        return not self.cycle.response_started if self._phase is Phase.BODY else self.cycle.response_complete

    @property
    def _refused(self) -> bool:
        return self._phase is Phase.REFUSED or self.transport.is_closing()

    def _await(self, phase: Phase, seconds: float | None) -> None:
        self._phase = phase
        self._deadline = 0.0 if seconds is None else self.loop.time() + seconds

    def _too_large(self) -> str:
        return f"the headers are larger than {self.bounds.settings.max_header_bytes:,} bytes"

    def _stop(self, code: Code, message: str) -> None:
        self._refusal = _RefusedError(code, message)
        raise self._refusal

    def _refuse(self, code: Code, message: str, *, retry: bool = False) -> None:
        """Answer, and end the connection once the client has had time to read that."""
        heard = self._may_answer()
        self._await(Phase.REFUSED, LINGER_SECONDS)
        self._unset_keepalive_if_required()
        if not heard:
            self.transport.abort()
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.write(_answer(code, message, retry))
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def shutdown(self) -> None:
        if self._phase is Phase.REFUSED:
            self.transport.close()
        else:
            super().shutdown()


def _answer(code: Code, message: str, retry: bool) -> bytes:
    body = orjson.dumps(error_body(RookeryError(code, message)))
    headers = {**dict(RESPONSE_HEADERS), "content-type": "application/json", "content-length": str(len(body))}
    headers |= {"connection": "close"} | ({"retry-after": "1"} if retry else {})
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return STATUS_LINE[code.status] + lines.encode() + b"\r\n" + body


def guarded(settings: Settings) -> type[GuardedProtocol]:
    """The protocol of a server under these settings' limits; one class for each server."""
    return type("Guarded", (GuardedProtocol,), {"bounds": Bounds(settings)})


def config(app: Callable[..., Any], settings: Settings) -> uvicorn.Config:
    """How applications are served: one worker, no access log of uvicorn's own (it shows query strings)."""
    return uvicorn.Config(
        app,
        http=guarded(settings),
        ws="none",
        access_log=False,
        # Its lines come through the handler of `observe`.
        log_config=None,
        log_level="warning",
        lifespan="on",
        timeout_graceful_shutdown=max(1, round(settings.stop_seconds)),
        server_header=False,
        headers=list(RESPONSE_HEADERS),
        timeout_keep_alive=max(1, round(settings.idle_seconds)),
    )
