"""HTTP connections with limits on the size of a request's head, on slow clients, and on the number of connections.

Bytes are counted as they arrive, so an endless head takes no more memory than its limit. Deadlines are plain
attributes that one timer per server checks, so setting them takes almost no time. All code in this module runs on the
event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from enum import Enum, auto
from typing import Any, cast

import httptools
import orjson
import uvicorn
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from engine.errors import (
    BAD_HTTP,
    HEAD_TOO_LARGE,
    REQUEST_LINE_TOO_LONG,
    TOO_MANY_CONNECTIONS,
    TOO_SLOW,
    Code,
    RookeryError,
)
from engine.observe.requests import REQUEST_ID_HEADER, RequestRecord
from engine.settings import Settings
from engine.web.app import Application
from engine.web.errors import error_body
from engine.web.open_connections import Bounds
from engine.web.request_log import RECORD_KEY, RequestLog

log = logging.getLogger("rookery.connections")

RESPONSE_HEADERS = (("cache-control", "no-store"), ("x-content-type-options", "nosniff"))
"""Headers of every response. Responses are for one caller, their URLs may contain tokens, and rows are not
scripts.
"""
MIN_BODY_BYTES_PER_SECOND = 500
"""A body that arrives more slowly exceeds its deadline."""
MAX_PIPELINED = 32
"""Maximum number of requests of a connection that wait for the response to an earlier one. A client could otherwise
send thousands at once, which take more memory and time than their bytes suggest.
"""
LINGER_SECONDS = 2.0
LINGER_BYTES = 1 << 20
"""How long, and how many bytes, a refused client may still send. If the connection were closed immediately, the
response could be lost.
"""
MAX_WAITING_REQUESTS = 8
"""How many requests of a connection may wait for an earlier response. With more, the server stops reading from the
connection, and then cannot notice that the client disconnects.
"""


class Phase(Enum):
    """What a connection waits for, which determines its deadline."""

    HEAD = auto()
    """The rest of a request's head."""
    BODY = auto()
    """The rest of a request's body."""
    RESPONSE = auto()
    """The application."""
    IDLE = auto()
    """The next request."""
    REFUSED = auto()
    """The client must close the connection after an error was sent to it."""


class _RefusedError(Exception):
    """Stops parsing a request. The message is sent to the client."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code


class GuardedProtocol(HttpToolsProtocol):
    """One connection, which is closed if its client sends too much, too slowly, or nothing."""

    bounds: Bounds

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._phase = Phase.HEAD
        self._deadline = 0.0
        self._send_deadline = 0.0
        self._head_bytes = 0
        self._head_lines = 0
        self._in_request = False
        # Number of bytes since the parser last called back. The parser buffers those of an unfinished line.
        self._buffered_bytes = 0
        self._refusal: _RefusedError | None = None
        self._linger_bytes = LINGER_BYTES
        # Records of the requests whose responses are not complete, in order.
        self._records: deque[RequestRecord] = deque()
        # The request that runs. `cycle` is the latest one, which may wait for it.
        self._running: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the deadline for the first head, or refuse the connection."""
        super().connection_made(transport)
        self._enter_phase(Phase.HEAD, self.bounds.settings.header_seconds)
        if self.bounds.enter(self, self.client[0] if self.client else ""):
            return
        if not self.bounds.may_answer:
            self.transport.abort()
        else:
            self._refuse(TOO_MANY_CONNECTIONS, TOO_MANY_CONNECTIONS.title, retry=True)

    # The methods below override uvicorn's and keep its order of calls; `super()` parses and writes.
    def connection_lost(self, exc: Exception | None) -> None:
        """End the records of all requests, including those that wait for an earlier response."""
        self.bounds.leave(self)
        for record in self._records:
            record.disconnect()
        for cycle, _app in reversed(self.pipeline):
            # These requests were waiting for their turn, so the application never sees them.
            self.bounds.log.end(cast(dict[str, Any], cycle.scope)[RECORD_KEY])
        self.pipeline.clear()
        super().connection_lost(exc)
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def data_received(self, data: bytes) -> None:
        """Parse what has arrived, and count it: the parser buffers an unfinished line, which could be endless."""
        if self._phase is Phase.REFUSED:
            # The rest of a refused request is discarded.
            self._linger_bytes -= len(data)
            if self._linger_bytes < 0:
                self.transport.abort()
            return
        if self._phase is Phase.IDLE:
            self._enter_phase(Phase.HEAD, self.bounds.settings.header_seconds)
        self._buffered_bytes += len(data)
        self._unset_keepalive_if_required()
        self._parse(data)
        if self._buffered_bytes > self.bounds.settings.max_header_bytes and not self._refused:
            self._refuse(HEAD_TOO_LARGE, self._too_large())

    def _parse(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.send_400_response("")
        except httptools.HttpParserUpgrade as offered:
            # The parser has stopped after the head. It would take the body for the next request.
            parts = (self._head_without_upgrade(), data[offered.args[0] :])
            self.parser = httptools.HttpRequestParser(self)
            # As uvicorn does: what follows a request that closes the connection must not cost it its response.
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            for part in parts:
                if not self._refused:
                    self._parse(part)

    def _head_without_upgrade(self) -> bytes:
        """The head of a request that offers an upgrade to another protocol, without the offer."""
        offer = (b"upgrade", b"http2-settings")
        headers = [(name, value) for name, value in self.headers if name not in (*offer, b"connection")]
        listed = b",".join(value for name, value in self.headers if name == b"connection").split(b",")
        if options := [option.strip() for option in listed if option.strip().lower() not in offer]:
            headers.append((b"connection", b", ".join(options)))
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        first = b"%s %s HTTP/%s" % (method, self.url, version)
        return b"\r\n".join((first, *map(b": ".join, headers), b"", b""))

    # Callbacks of the parser. An exception in one of them stops the parsing, and uvicorn calls `send_400_response`.
    def on_message_begin(self) -> None:
        self._buffered_bytes = self._head_bytes = self._head_lines = 0
        self._in_request = True
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._buffered_bytes = 0
        super().on_url(url)
        limit = self.bounds.settings.max_request_line
        if len(self.url) > limit:
            self._stop_parsing(REQUEST_LINE_TOO_LONG, f"the request line is longer than {limit:,} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._buffered_bytes = 0
        limits = self.bounds.settings
        self._head_bytes += len(name) + len(value) + 4
        self._head_lines += 1
        if self._head_bytes > limits.max_header_bytes:
            self._stop_parsing(HEAD_TOO_LARGE, self._too_large())
        if self._head_lines > limits.max_headers:
            self._stop_parsing(HEAD_TOO_LARGE, f"the request has more than {limits.max_headers} headers")
        # Trailers, which follow a body, are counted too, but they are no headers: proxies do not check them.
        if self._phase is not Phase.BODY:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin the request's record, before the application runs."""
        self._buffered_bytes = 0
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                self._stop_parsing(BAD_HTTP, "CONNECT is not supported")
            # The parser stops here, and `_parse` starts it again.
            return
        if len(self.pipeline) >= MAX_PIPELINED:
            self._stop_parsing(BAD_HTTP, f"more than {MAX_PIPELINED} requests wait for earlier ones")
        # Before the request can run, and with the address of the connection, which a header may replace later.
        record = self._begun_record()
        cast(dict[str, Any], self.scope)[RECORD_KEY] = record
        self._records.append(record)
        super().on_headers_complete()
        if 0 < len(self.pipeline) <= MAX_WAITING_REQUESTS:
            self.flow.resume_reading()
        self._enter_phase(Phase.BODY, self.bounds.settings.body_seconds)

    def on_chunk_header(self) -> None:
        self._buffered_bytes = 0

    def on_body(self, body: bytes) -> None:
        self._buffered_bytes = 0
        # Each byte extends the deadline a little, up to the full time: a slow client runs out of time, a large body
        # does not.
        latest = self.loop.time() + self.bounds.settings.body_seconds
        self._deadline = min(self._deadline + len(body) / MIN_BODY_BYTES_PER_SECOND, latest)
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._in_request = False
        if self.cycle is not None and self.cycle.response_complete:
            self._enter_phase(Phase.IDLE, self.bounds.settings.idle_seconds)
        else:
            self._enter_phase(Phase.RESPONSE, None)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """End the first record: responses are sent in the order of the requests."""
        self._records.popleft()
        super().on_response_complete()
        if self._phase is Phase.RESPONSE and not self.pipeline and self.cycle.response_complete:
            self._enter_phase(Phase.IDLE, self.bounds.settings.idle_seconds)

    def send_400_response(self, msg: str) -> None:
        """Send the error for which a callback has stopped the parser, or one for invalid HTTP."""
        if self._refusal is not None:
            self._refuse(self._refusal.code, str(self._refusal))
        elif not self._refused:
            self._refuse(BAD_HTTP, "the request is not valid HTTP")

    def pause_writing(self) -> None:
        super().pause_writing()
        self._send_deadline = self.loop.time() + self.bounds.settings.send_seconds

    def resume_writing(self) -> None:
        super().resume_writing()
        self._send_deadline = 0.0

    def check_deadline(self, now: float) -> None:
        """Close the connection if a deadline has passed."""
        if self._send_deadline and now > self._send_deadline:
            self.transport.abort()
        elif self._deadline and now > self._deadline:
            self._on_overdue(now)

    def _on_overdue(self, now: float) -> None:
        """Decide what a passed deadline means: the server is slow, the client is slow, or the connection waits for
        nothing.
        """
        if self._phase is Phase.BODY and self.flow.read_paused:
            # In this case the server is slow and not the client: it has not yet read what the client sent.
            self._deadline = now + self.bounds.settings.body_seconds
        elif self._in_request:
            self._refuse(TOO_SLOW, f"the request's {self._phase.name.lower()} arrived too slowly")
        else:
            self.transport.abort()

    def _begun_record(self) -> RequestRecord:
        """A record of the request whose head has arrived."""
        method = self.parser.get_method().decode("ascii")
        scope = {"method": method, "client": self.client, "headers": self.headers}
        return self.bounds.log.begin(scope)

    def _refused_record(self) -> RequestRecord:
        """The record of the request that is being received; a new one if its head is incomplete."""
        if self._phase is Phase.BODY and self._records:
            return self._records[-1]
        # The method is only known if the first line has arrived.
        scope = {"method": "", "client": self.client, "headers": self.headers or ()}
        return self.bounds.log.begin(scope)

    def _can_respond(self) -> bool:
        """Whether the client would interpret a response sent now as the response to the request being received."""
        if self.cycle is None or self.pipeline:
            return not self.pipeline
        return not self.cycle.response_started if self._phase is Phase.BODY else self.cycle.response_complete

    @property
    def _refused(self) -> bool:
        return self._phase is Phase.REFUSED or self.transport.is_closing()

    def _enter_phase(self, phase: Phase, seconds: float | None) -> None:
        """Change the phase, with a deadline in seconds from now; None means no deadline."""
        self._phase = phase
        self._deadline = 0.0 if seconds is None else self.loop.time() + seconds

    def _too_large(self) -> str:
        return f"the headers are larger than {self.bounds.settings.max_header_bytes:,} bytes"

    def _stop_parsing(self, code: Code, message: str) -> None:
        """Raise from a callback of the parser. `send_400_response` sends the error."""
        self._refusal = _RefusedError(code, message)
        raise self._refusal

    def _refuse(self, code: Code, message: str, *, retry: bool = False) -> None:
        """Send an error, and close the connection after the client has had time to read it."""
        can_respond = self._can_respond()
        record = self._refused_record()
        self._enter_phase(Phase.REFUSED, LINGER_SECONDS)
        self._unset_keepalive_if_required()
        if record not in self._records:
            record.refuse(code.status, code.id)
            record.complete = can_respond
            self.bounds.log.end(record)
        elif can_respond:
            record.refuse(code.status, code.id)
        if not can_respond:
            self.transport.abort()
            return
        if self.cycle is not None and not self.cycle.response_complete:
            # If the application is already running, it sees that the client has disconnected, and stops.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        body = {**error_body(RookeryError(code, message), self.bounds.settings), "request_id": record.id}
        self.transport.write(_error_response(code, body, retry=retry))
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def shutdown(self) -> None:
        """Close the connection now if it is refused; otherwise after its response, as uvicorn does."""
        if self._phase is Phase.REFUSED:
            self.transport.close()
        else:
            super().shutdown()


def _error_response(code: Code, content: dict[str, Any], *, retry: bool) -> bytes:
    """An error as the bytes of a complete HTTP response."""
    body = orjson.dumps(content)
    headers = {
        **dict(RESPONSE_HEADERS),
        REQUEST_ID_HEADER: content["request_id"],
        "content-type": "application/json",
        "content-length": str(len(body)),
    }
    headers |= {"connection": "close"} | ({"retry-after": "1"} if retry else {})
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return STATUS_LINE[code.status] + lines.encode() + b"\r\n" + body


def guarded(settings: Settings, log: RequestLog) -> type[GuardedProtocol]:
    """The protocol class of a server, with the limits in its settings."""
    return type("Guarded", (GuardedProtocol,), {"bounds": Bounds(settings, log)})


def config(app: Application, settings: Settings) -> uvicorn.Config:
    """The configuration of uvicorn: one worker, and no access log, which would show query strings."""
    return uvicorn.Config(
        app,
        http=guarded(settings, app.request_log),
        ws="none",
        access_log=False,
        # uvicorn's log lines go through the handler of `engine.observe`.
        log_config=None,
        log_level="warning",
        lifespan="on",
        timeout_graceful_shutdown=max(1, round(settings.stop_seconds)),
        server_header=False,
        headers=list(RESPONSE_HEADERS),
        timeout_keep_alive=max(1, round(settings.idle_seconds)),
    )
