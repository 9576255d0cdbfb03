"""`POST /v0/events`, by which most rows come, in small requests.

It is an ASGI application of its own: what a framework does for each request takes longer than what is done here.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import orjson
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine.errors import BAD_REQUEST, RookeryError
from engine.serve import access
from engine.serve.batch import Outcome
from engine.serve.compression import sniffed
from engine.serve.gateway import Room
from engine.serve.query import Timer
from engine.warehouse.port import Input
from engine.web.errors import rendered
from engine.web.requests import Head, append_body, flag, head_of
from engine.web.state import State

PATH = "/v0/events"


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


class Express:
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
    state: State = scope["app"].state.rookery
    head = head_of(scope)
    acknowledged, visible = _wait(head.query.get("wait", "false"))
    name, bound = writer(state, head)
    timer.stage("auth")
    with state.gateway.room() as room:
        body = await _body(scope, receive, head, state.workspace.settings.max_body, room)
        timer.stage("body")
        outcome = await state.answers.of(state.gateway.append(name, body, Input.NDJSON, bound, head.key()))
    timer.stage("append")
    answer: dict[str, Any] = {"successful_rows": outcome.rows, "quarantined_rows": outcome.quarantined}
    if outcome.repeated:
        answer["repeated"] = True
    if visible:
        answer["visible"] = await _visible(outcome, state.workspace.settings.visible_seconds)
        timer.stage("visible")
    return (200 if acknowledged else 202), answer


def writer(state: State, head: Head) -> tuple[str, str | None]:
    """The datasource that a request appends to, and the tenant that its token writes for."""
    claims = access.authenticate(state.workspace, head.token())
    name = head.query.get("name")
    if not name:
        raise RookeryError(BAD_REQUEST, "no datasource named", hint="?name=DATASOURCE")
    return name, access.for_append(state.workspace.current, claims, name)


async def _body(scope: Scope, receive: Receive, head: Head, limit: int, room: Room) -> bytes:
    """The rows, with room taken for them. Raises RK5004, RK5007, RK5010."""
    announced = head.headers.get(b"content-length", b"")
    if announced.isdigit() and int(announced) <= limit and b"content-encoding" not in head.headers:
        message = await receive()
        body: bytes = message.get("body", b"")
        if message["type"] == "http.request" and not message.get("more_body") and not sniffed(body):
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


async def _visible(outcome: Outcome, patience: float) -> bool:
    """Whether the rows can be read from their tenants' tables, after waiting for it at most so many seconds."""
    if outcome.visible is None:
        return True
    with suppress(TimeoutError):
        return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(outcome.visible)), patience)
    return False
