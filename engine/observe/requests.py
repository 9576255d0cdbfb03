"""What is known about a request, for its line in the access log and for metrics.

A record is created when the head of a request has arrived. The parts of the program that find something out add it to
the record of the current request. The record never holds parameters, rows, or the text of a token.
"""

from __future__ import annotations

import re
import secrets
import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

REQUEST_ID_HEADER = "x-request-id"
CLIENT_LEFT = 499
"""The status in the access log of a request whose client disconnected before the response began. nginx uses the same
number.
"""
_SANE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+=@-]{0,127}")


@dataclass(slots=True, eq=False)
class RequestRecord:
    """One request."""

    id: str
    """The request id, which the response repeats."""
    method: str = ""
    """Empty for a connection that was refused before a request arrived."""
    client: str = ""
    """The client's address."""
    started: float = field(default_factory=time.perf_counter)
    moment: float = 0.0
    """When the request ended, in Unix seconds."""
    ms: float = 0.0
    route: str = ""
    """The route as in `docs/http.md`, such as `/v0/tenants/{id}`; empty if no route matches."""
    endpoint: str = ""
    """The deployed endpoint that is called."""
    datasource: str = ""
    """The deployed datasource that is appended to."""
    path: str = ""
    """The path. It is only logged at level debug."""
    tenant: str | None = None
    """The tenant whose rows the request may read or append."""
    token: str | None = None
    """The name of the token."""
    status: int = 0
    """The status of the response; 0 before it is known."""
    code: str = ""
    """The code of the error, such as RK4002."""
    rows: int = 0
    """Rows in the result, or rows that were stored."""
    rows_read: int = 0
    """Rows that the database read for a query."""
    bytes_read: int = 0
    """Bytes that the database read for a query."""
    bytes: int = 0
    """Size of the response's body, in bytes."""
    complete: bool = False
    """Whether the whole response was sent."""
    refused: bool = False
    """Whether the connection answered the request, instead of the application that runs it."""
    disconnected: bool = False
    """Whether the client disconnected before the response was complete."""

    def refuse(self, status: int, code: str) -> None:
        """Note that the connection has answered the request with an error. What the application does no longer
        counts.
        """
        self.status, self.code, self.refused, self.complete = status, code, True, True

    def disconnect(self) -> None:
        """Note that the client disconnected. The application may still run, but nothing that it sends arrives."""
        if not self.refused:
            self.status = self.status or CLIENT_LEFT
            self.disconnected = True

    def respond(self, status: int) -> None:
        """Note the status of a response that begins now."""
        if not self.refused and not self.disconnected:
            self.status = status

    def end(self) -> None:
        """Note that the request has ended."""
        self.moment = time.time()
        self.ms = (time.perf_counter() - self.started) * 1000

    def line(self) -> dict[str, Any]:
        """The fields of the line in the access log, in order. Fields without a value are left out."""
        values = {
            "request_id": self.id,
            "client": self.client,
            "method": self.method,
            "route": self.route,
            "path": self.path,
            "endpoint": self.endpoint,
            "datasource": self.datasource,
            "tenant": self.tenant,
            "token": self.token,
        }
        fields: dict[str, Any] = {name: value for name, value in values.items() if value}
        fields |= {"status": self.status, "ms": round(self.ms, 2), "rows": self.rows, "bytes": self.bytes}
        if self.rows_read:
            fields |= {"rows_read": self.rows_read, "bytes_read": self.bytes_read}
        if self.code:
            fields["code"] = self.code
        if not self.complete or self.disconnected:
            fields["aborted"] = True
        return fields


_current: ContextVar[RequestRecord | None] = ContextVar("rookery_request", default=None)


def current() -> RequestRecord | None:
    """The record of the request that this task or thread works for; None outside of requests."""
    return _current.get()


def work_for(record: RequestRecord | None) -> None:
    """Set the record of the request that this task, and the threads that it starts, work for."""
    _current.set(record)


def note_token(name: str, tenant: str | None) -> None:
    """Note the name of the current request's token, and the tenant that it is bound to."""
    record = _current.get()
    if record is not None:
        record.token, record.tenant = name, tenant


def note_tenant(tenant: str | None) -> None:
    """Note the tenant that the current request reads as."""
    record = _current.get()
    if record is not None and tenant is not None:
        record.tenant = tenant


def note_route(path: str) -> None:
    """Note the route of the current request, if it is not found in the usual way."""
    record = _current.get()
    if record is not None:
        record.route = path


def note_append(datasource: str, rows: int = 0) -> None:
    """Note the deployed datasource that the current request appends to, and more rows that were stored."""
    record = _current.get()
    if record is not None:
        record.datasource = datasource
        record.rows += rows


def note_read(rows: int, rows_read: int, bytes_read: int) -> None:
    """Note more rows of a result, and what the database read for them."""
    record = _current.get()
    if record is not None:
        record.rows += rows
        record.rows_read += rows_read
        record.bytes_read += bytes_read


def note_error(code: str) -> None:
    """Note the code of the error in the response."""
    record = _current.get()
    if record is not None and not record.refused:
        record.code = code


def request_id(given: bytes | None) -> str:
    """The id of a request: the one that its client or proxy has sent if its characters are allowed, otherwise a new
    one.
    """
    text = given.decode("latin-1") if given is not None else ""
    return text if _SANE_ID.fullmatch(text) else secrets.token_hex(8)
