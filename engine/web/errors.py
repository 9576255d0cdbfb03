"""Errors as HTTP responses: JSON with `error`, a stable `code`, and the place where the code is documented."""

from __future__ import annotations

from typing import Any

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Scope

from engine.errors import BAD_REQUEST, INTERNAL, METHOD, NOT_FOUND, Problems, RookeryError
from engine.observe import requests
from engine.settings import Settings
from engine.template.environment import PipeError
from engine.warehouse.errors import file_error, for_sender, is_file_error
from engine.web.access import reads_all

log = structlog.get_logger("rookery.web")
MAX_MESSAGE_CHARACTERS = 1000
"""Maximum length of a message. Some messages quote what the caller sent."""


def error_body(exc: RookeryError, settings: Settings, *, public: bool = True) -> dict[str, Any]:
    """The JSON of an error; with `public`, for callers who may not read all rows."""
    body = exc.as_dict(public=public)
    if len(body["error"]) > MAX_MESSAGE_CHARACTERS:
        body["error"] = body["error"][:MAX_MESSAGE_CHARACTERS] + "…"
    record = requests.current()
    if record is not None:
        body["request_id"] = record.id
    body["documentation"] = settings.error_page(exc.code)
    if isinstance(exc, Problems):
        body["errors"] = [
            {**p.as_dict(public=public), "documentation": settings.error_page(p.code)} for p in exc.problems
        ]
    return body


def note(exc: RookeryError) -> None:
    """Record and log an error that a response reports."""
    requests.note_error(exc.code.id)
    if exc.is_server_fault:
        log.error("failed", error=exc, detail=exc.detail)
    # The engine's message may name other tenants' objects, so it is logged but never part of a response.
    elif exc.detail:
        log.info("refused", error=exc, detail=exc.detail)


def rendered(exc: RookeryError, scope: Scope) -> Response:
    """The response for an error of a request."""
    if isinstance(exc, PipeError):
        requests.note_error(exc.code.id)
        return JSONResponse(exc.body, exc.status)
    note(exc)
    body = error_body(exc, scope["app"].state.settings, public=not reads_all(scope))
    return JSONResponse(body, exc.code.status, headers=exc.headers)


async def on_rookery_error(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, RookeryError)
    return rendered(exc, request.scope)


async def on_http_exception(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    code = {404: NOT_FOUND, 405: METHOD}.get(exc.status_code, BAD_REQUEST)
    headers = dict(exc.headers or {})
    hint = "docs/http.md lists the routes" if code is NOT_FOUND else None
    if code is METHOD:
        hint = f"methods of this route: {headers.get('Allow') or headers.get('allow') or 'others'}"
    response = rendered(RookeryError(code, code.title, hint=hint, headers=headers), request.scope)
    response.status_code = exc.status_code
    return response


async def on_bug(request: Request, exc: Exception) -> Response:
    """Log an unexpected exception with its stack; the caller gets one line."""
    log.error("bug", exc_info=exc)
    if is_file_error(exc):
        # A file in the data directory cannot be read or written, which may be temporary.
        return rendered(for_sender(file_error(exc)), request.scope)
    internal = RookeryError(INTERNAL, "internal error", hint="the server's log has the cause")
    return rendered(internal, request.scope)
