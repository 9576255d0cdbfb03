"""`POST /v0/events`, by which most rows come, in small requests.

It is an ASGI application of its own: what a framework does for each request takes longer than what is done here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import orjson
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine.errors import BAD_REQUEST, MEDIA_TYPE, QUARANTINE_FULL, RookeryError
from engine.ingest.batch import AppendResult, Fault
from engine.ingest.formats.compression import sniff_encoding
from engine.ingest.gateway import MemoryBudget
from engine.query import authorize
from engine.query.executor import Timer
from engine.warehouse.port import Input
from engine.web.append_options import EVENT_PARAMETERS, FORM_TYPE, format_of, media_type, refuse_unknown
from engine.web.errors import rendered
from engine.web.forms import file_in
from engine.web.requests import Head, append_body, flag, head_of
from engine.web.services import Services

PATH = "/v0/events"
PLAIN_CONTENT_TYPES = frozenset(
    {b"application/json", b"application/x-ndjson", b"text/plain", b"application/x-www-form-urlencoded"}
)
"""Content types that need no closer look."""
FILE_HINT = "POST /v0/datasources?format=csv or parquet takes files"


class Events:
    """`POST /v0/events?name=DATASOURCE`: NDJSON, JSON objects or a JSON array; answered when the rows are stored."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        timer = Timer()
        try:
            status, answer = await _append(scope, receive, timer)
        except RookeryError as exc:
            await rendered(exc)(scope, receive, send)
            return
        body = orjson.dumps(answer)
        headers = [
            (b"content-length", b"%d" % len(body)),
            (b"content-type", b"application/json"),
            (b"server-timing", timer.header().encode()),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class EventsFastPath:
    """Lets appends pass by the middleware and the routes, which have nothing to do for them.

    Those from a browser's page do not: they carry an `Origin`, and need to be answered accordingly.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._events = Events()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ours = scope["type"] == "http" and scope["path"] == PATH and scope["method"] == "POST"
        if ours and not any(name == b"origin" for name, _ in scope["headers"]):
            await self._events(scope, receive, send)
        else:
            await self._app(scope, receive, send)


async def _append(scope: Scope, receive: Receive, timer: Timer) -> tuple[int, dict[str, Any]]:
    state: Services = scope["app"].state.rookery
    head = head_of(scope)
    if not head.query.keys() <= EVENT_PARAMETERS or "mode" in head.query or "format" in head.query:
        _parameters(head.query)
    receive, formed = _rows_of(head, receive)
    acknowledged, visible = _wait(head.query.get("wait", "false"))
    name, bound, token = writer(state, head)
    timer.stage("auth")
    with state.gateway.room(bound, token) as room:
        body = await _body(scope, receive, head, formed, state.workspace.settings.max_body, room)
        timer.stage("body")
        appended = state.gateway.append(name, body, Input.NDJSON, bound, head.key(), writer=token)
        outcome = await state.answers.of(appended)
    timer.stage("append")
    answer = append_answer(outcome)
    if not outcome.rows and not outcome.quarantined:
        refuse_if_full(outcome.refused, name)
    if outcome.repeated:
        answer["repeated"] = True
    if visible:
        answer["visible"] = await _visible(outcome, state.workspace.settings.visible_seconds)
        timer.stage("visible")
    return (200 if acknowledged else 202), answer


def append_answer(outcome: AppendResult) -> dict[str, Any]:
    """What an answer says of an append: counts, and what its sender should know of bad rows and unknown keys."""
    answer: dict[str, Any] = {"successful_rows": outcome.rows, "quarantined_rows": outcome.quarantined}
    if outcome.refused:
        answer["refused_rows"] = outcome.refused
    if outcome.first is not None:
        answer["first_bad_row"] = bad_row(outcome.first)
    if outcome.unknown.count:
        answer["unknown_keys"] = {"count": outcome.unknown.count, "names": list(outcome.unknown.names)}
    return answer


def bad_row(fault: Fault, before: int = 0) -> dict[str, Any]:
    """A row that could not be stored, with its place among the rows that were sent, from 1."""
    columns = [c for c in fault.columns if c]
    return {"row": before + fault.row, "columns": columns, "reason": "; ".join(fault.reasons)}


def refuse_if_full(refused: int, name: str) -> None:
    """Raise RK5017 if rows were refused: to be asked where nothing else is left of what was sent."""
    if refused:
        raise RookeryError(
            QUARANTINE_FULL,
            f"none of {refused:,} rows can be stored, and the quarantine of `{name}` is full for this writer",
            hint="send rows that can be stored; an admin sees why these cannot be, and makes room: "
            f"rookery quarantine ls {name}; the room is ROOKERY_QUARANTINE_ROWS and ROOKERY_QUARANTINE_BYTES",
            headers={"Retry-After": "60"},
        )


def writer(state: Services, head: Head) -> tuple[str, str | None, str]:
    """The datasource that a request appends to, the tenant that its token writes for, and what names the token."""
    claims = authorize.authenticate(state.workspace, head.token())
    name = head.query.get("name")
    if not name:
        raise RookeryError(BAD_REQUEST, "no datasource named", hint="?name=DATASOURCE")
    return name, authorize.for_append(state.workspace.current, claims, name), authorize.writer_of(claims)


def _parameters(query: Mapping[str, str]) -> None:
    """Refuse what the query says and nothing here would follow. Raises RK4009."""
    refuse_unknown(query, EVENT_PARAMETERS)
    mode, format = query.get("mode", "append"), query.get("format", "ndjson").lower()
    if mode != "append":
        hint = "POST /v0/datasources?mode=replace" if mode == "replace" else "append"
        raise RookeryError(BAD_REQUEST, f"no mode `{mode[:20]}` for events", hint=hint)
    if format not in ("json", "ndjson"):
        raise RookeryError(BAD_REQUEST, f"events are JSON, not `{format[:20]}`", hint=FILE_HINT)


def _rows_of(head: Head, receive: Receive) -> tuple[Receive, bool]:
    """Where the rows come from: the body, or a form's file in it. Raises RK5019 for other types."""
    header = head.headers.get(b"content-type")
    if header is None or header in PLAIN_CONTENT_TYPES:
        return receive, False
    text = header.decode("latin-1")
    if media_type(text) == FORM_TYPE:
        if b"content-encoding" in head.headers:
            hint = "compress the file in the form instead"
            raise RookeryError(MEDIA_TYPE, "a form is not opened as a whole", hint=hint)
        return file_in(text, receive), True
    if format_of(text) in ("csv", "parquet"):
        raise RookeryError(MEDIA_TYPE, f"events are JSON, not `{media_type(text)}`", hint=FILE_HINT)
    return receive, False


async def _body(scope: Scope, receive: Receive, head: Head, formed: bool, limit: int, room: MemoryBudget) -> bytes:
    """The rows, with room taken for them; `formed` are a form's file. Raises RK5004, RK5007, RK5010."""
    announced = head.headers.get(b"content-length", b"")
    if not formed and announced.isdigit() and int(announced) <= limit and b"content-encoding" not in head.headers:
        message = await receive()
        body: bytes = message.get("body", b"")
        if message["type"] == "http.request" and not message.get("more_body") and not sniff_encoding(body):
            room.take(len(body))
            return body
        receive = _after(message, receive)
    return await append_body(Request(scope, receive), limit, room)


def _after(first: Message, receive: Receive) -> Receive:
    """Receiving from the start again, after the first message was taken."""
    left = [first]

    async def again() -> Message:
        return left.pop() if left else await receive()

    return again


def _wait(value: str) -> tuple[bool, bool]:
    """Whether the caller waits for landing, and for its tenants' tables as well. Raises RK4009."""
    if value.lower() == "visible":
        return True, True
    try:
        return flag(value, False), False
    except RookeryError as exc:
        raise RookeryError(BAD_REQUEST, f"`wait` is true, false or visible, not {value[:40]!r}") from exc


async def _visible(outcome: AppendResult, patience: float) -> bool:
    """Whether the rows can be read from their tenants' tables, after waiting for it at most so many seconds."""
    if outcome.visible is None:
        return True
    with suppress(TimeoutError):
        return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(outcome.visible)), patience)
    return False
