"""`POST /v0/events`: receives most rows, mainly in small requests.

It is a separate ASGI application, because a framework's work per request would take longer than the append itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine.errors import BAD_REQUEST, MEDIA_TYPE, QUARANTINE_FULL, RookeryError
from engine.ingest.batch import Append, AppendResult, RowFault
from engine.ingest.formats.compression import sniff_encoding
from engine.ingest.memory_budget import MemoryBudget
from engine.observe.requests import note_append, note_route
from engine.observe.timer import Timer
from engine.plurals import counted
from engine.query import authorize
from engine.warehouse.port import Input
from engine.web.access import authorize_request, claims_of
from engine.web.append_options import EVENT_PARAMETERS, FORM_TYPE, format_of, media_type, refuse_unknown
from engine.web.errors import rendered
from engine.web.forms import receive_file
from engine.web.requests import Head, append_body, flag, head_of
from engine.web.services import Services

PATH = "/v0/events"
PLAIN_CONTENT_TYPES = frozenset(
    {b"application/json", b"application/x-ndjson", b"text/plain", b"application/x-www-form-urlencoded"}
)
"""Usual content types, which are accepted without parsing the header."""
FILE_HINT = "POST /v0/datasources?format=csv or parquet accepts files"


class Events:
    """`POST /v0/events?name=DATASOURCE`: NDJSON, JSON objects or a JSON array. The response is sent when the rows are
    stored.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        timer = Timer()
        try:
            authorize_request(scope, PATH)
            status, response = await _append(scope, receive, timer)
        except RookeryError as exc:
            await rendered(exc, scope)(scope, receive, send)
            return
        body = orjson.dumps(response)
        headers = [
            (b"content-length", b"%d" % len(body)),
            (b"content-type", b"application/json"),
            (b"server-timing", timer.header().encode()),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class EventsFastPath:
    """Middleware that sends appends directly to `Events`, past all other middleware and the routes.

    Requests from web pages, which have an `Origin` header, pass through, because their responses need CORS headers.
    """

    def __init__(self, app: ASGIApp, events: Events) -> None:
        self._app = app
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_append = scope["type"] == "http" and scope["path"] == PATH and scope["method"] == "POST"
        if is_append and not any(name == b"origin" for name, _ in scope["headers"]):
            note_route(PATH)
            await self._events(scope, receive, send)
        else:
            await self._app(scope, receive, send)


@dataclass(frozen=True, slots=True)
class Writer:
    """Who appends to what."""

    datasource: str
    """What it appends to."""
    tenant: str | None
    """The only tenant whose rows the token may append; None means any tenant."""
    token: str
    """The name of the token, under which its rows are counted and kept in order."""


def writer_of(scope: Scope, query: Mapping[str, str]) -> Writer:
    """The writer of an append. Raises RK4002 and RK4003 for its token, and RK4009 without a datasource."""
    claims = claims_of(scope)
    name = query.get("name")
    if not name:
        raise RookeryError(BAD_REQUEST, "the request names no datasource", hint="?name=DATASOURCE")
    snapshot = scope["app"].state.rookery.workspace.current
    if name in snapshot.build.datasources:
        note_append(name)
    tenant = authorize.for_append(snapshot, claims, name)
    return Writer(name, tenant, authorize.writer_of(claims))


async def _append(scope: Scope, receive: Receive, timer: Timer) -> tuple[int, dict[str, Any]]:
    """Append a request's rows, and return the status and the JSON of the response."""
    services: Services = scope["app"].state.rookery
    head = head_of(scope)
    query = head.query()
    if not query.keys() <= EVENT_PARAMETERS or "mode" in query or "format" in query:
        _check_parameters(query)
    receive, is_form = _rows_of(head, receive)
    waits_for_storage, waits_for_visibility = _wait_mode(query.get("wait", "false"))
    writer = writer_of(scope, query)
    timer.stage("auth")
    # Released when the rows are stored: until then, the body waits in memory.
    with services.gateway.memory_budget(writer.tenant, writer.token) as budget:
        request = Request(scope, receive)
        body = await _body(request, services.workspace.settings.max_body, budget, is_form=is_form)
        timer.stage("body")
        # From here the rows are stored even if the client disconnects.
        appended = services.gateway.submit(
            Append(writer.datasource, body, Input.NDJSON, writer.tenant, head.idempotency_key(), writer.token)
        )
        outcome = await services.appended.result(appended)
    timer.stage("append")
    note_append(writer.datasource, outcome.rows)
    response = append_response(outcome)
    if not outcome.rows and not outcome.quarantined:
        raise_if_refused(outcome.refused, writer.datasource)
    if outcome.repeated:
        response["repeated"] = True
    if waits_for_visibility:
        response["visible"] = await _wait_until_visible(outcome, services.workspace.settings.visible_seconds)
        timer.stage("visible")
    return (200 if waits_for_storage else 202), response


def append_response(outcome: AppendResult) -> dict[str, Any]:
    """The JSON for an append: counts of rows, the first bad row, and keys that do not belong to a column."""
    response: dict[str, Any] = {"successful_rows": outcome.rows, "quarantined_rows": outcome.quarantined}
    if outcome.refused:
        response["refused_rows"] = outcome.refused
    if outcome.first_bad_row is not None:
        response["first_bad_row"] = bad_row(outcome.first_bad_row)
    if outcome.unknown_keys.count:
        response["unknown_keys"] = {"count": outcome.unknown_keys.count, "names": list(outcome.unknown_keys.names)}
    return response


def bad_row(fault: RowFault, rows_before: int = 0) -> dict[str, Any]:
    """A row that could not be stored, with its position among the rows that were sent, counted from 1."""
    columns = [c for c in fault.columns if c]
    return {"row": rows_before + fault.row, "columns": columns, "reason": "; ".join(fault.reasons)}


def raise_if_refused(refused: int, datasource: str) -> None:
    """Raise RK5017 if rows were refused. Call it when no row of the request was stored or quarantined."""
    if refused:
        raise RookeryError(
            QUARANTINE_FULL,
            f"0 of {counted(refused, 'row')} can be stored, and the writer's quarantine of `{datasource}` is full",
            hint="send valid rows; an admin can see what is wrong with these, and drop rows: "
            f"rookery quarantine ls {datasource}; the limits are ROOKERY_QUARANTINE_ROWS and "
            "ROOKERY_QUARANTINE_BYTES",
            headers={"Retry-After": "60"},
        )


def _check_parameters(query: Mapping[str, str]) -> None:
    """Refuse parameters that are unknown or have a value that events do not support. Raises RK4009."""
    refuse_unknown(query, EVENT_PARAMETERS)
    mode, format = query.get("mode", "append"), query.get("format", "ndjson").lower()
    if mode != "append":
        hint = "POST /v0/datasources?mode=replace" if mode == "replace" else "append"
        raise RookeryError(BAD_REQUEST, f"events have no mode `{mode[:20]}`", hint=hint)
    if format not in ("json", "ndjson"):
        raise RookeryError(BAD_REQUEST, f"events are JSON, not `{format[:20]}`", hint=FILE_HINT)


def _rows_of(head: Head, receive: Receive) -> tuple[Receive, bool]:
    """The source from which to receive the rows, and whether it is a file in a form. Raises RK5019 for other
    types.
    """
    header = head.headers.get(b"content-type")
    if header is None or header in PLAIN_CONTENT_TYPES:
        return receive, False
    content_type = header.decode("latin-1")
    if media_type(content_type) == FORM_TYPE:
        if b"content-encoding" in head.headers:
            hint = "compress the file in the form instead"
            raise RookeryError(MEDIA_TYPE, "a compressed form is not supported", hint=hint)
        return receive_file(content_type, receive), True
    if format_of(content_type) in ("csv", "parquet"):
        raise RookeryError(MEDIA_TYPE, f"events are JSON, not `{media_type(content_type)}`", hint=FILE_HINT)
    return receive, False


async def _body(request: Request, limit: int, budget: MemoryBudget, *, is_form: bool) -> bytes:
    """The rows; their memory is reserved. Raises RK5004, RK5007 and RK5010."""
    head = head_of(request.scope)
    announced = head.headers.get(b"content-length", b"")
    if not is_form and announced.isdigit() and int(announced) <= limit and b"content-encoding" not in head.headers:
        # Most bodies arrive in one message, whose bytes are used without a copy.
        message = await request.receive()
        body: bytes = message.get("body", b"")
        if message["type"] == "http.request" and not message.get("more_body") and not sniff_encoding(body):
            budget.reserve(len(body))
            return body
        request = Request(request.scope, _replayed(message, request.receive))
    return await append_body(request, limit, budget)


def _replayed(message: Message, receive: Receive) -> Receive:
    """Receives an already received message again, and then the following ones."""
    pending = [message]

    async def receive_again() -> Message:
        return pending.pop() if pending else await receive()

    return receive_again


def _wait_mode(value: str) -> tuple[bool, bool]:
    """Whether the caller waits for the rows to be stored, and to reach the tenants' tables. Raises RK4009."""
    if value.lower() == "visible":
        return True, True
    try:
        return flag(value, False, "wait"), False
    except RookeryError as exc:
        raise RookeryError(BAD_REQUEST, f"`wait` must be true, false or visible, got {value[:40]!r}") from exc


async def _wait_until_visible(outcome: AppendResult, timeout_seconds: float) -> bool:
    """Whether the rows can be read from their tenants' tables before the timeout."""
    if outcome.visible is None:
        return True
    with suppress(TimeoutError):
        # Shielded, since the other waiters of the batch share the future.
        return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(outcome.visible)), timeout_seconds)
    return False
