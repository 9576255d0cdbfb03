"""Routes on tokens and the workspace's signing keys. Admin tokens only."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from engine.control import tokens
from engine.errors import BAD_REQUEST, RookeryError
from engine.tokens import Scope
from engine.web.bodies import NoBody, SigningKeyBody, TokenBody, body_as
from engine.web.control import READ_METHODS, admin, in_thread

MAX_TOKEN_BODY_BYTES = 1 << 20
"""Filters of a token may be long."""


async def tokens_route(request: Request) -> Response:
    """`GET /v0/tokens`, and `POST` for a static token or, with `ttl` or `expiration_time`, a JWT."""
    reading = request.method in READ_METHODS
    services = admin(request, *(() if reading else ("name", "scope", "expiration_time")))
    if reading:
        return JSONResponse({"tokens": await in_thread(services, partial(tokens.listing, services.workspace))})
    body = await body_as(TokenBody, request, MAX_TOKEN_BODY_BYTES)
    query = request.query_params
    _agree("name", query.get("name"), body.name)
    name = query.get("name") or body.name
    if not name:
        raise RookeryError(BAD_REQUEST, "`name` is needed, as text")
    scopes = [Scope.parse(s) for s in query.getlist("scope")]
    scopes += [Scope.parse(s) if isinstance(s, str) else Scope.of(s) for s in body.scopes]
    lifetime = _lifetime_seconds(query.get("expiration_time"), body)
    rps = body.limits.rps if body.limits else None
    if lifetime is None:
        if rps is not None:
            raise RookeryError(BAD_REQUEST, "a static token has no `limits`", hint="mint a JWT: give it a `ttl`")
        work = partial(tokens.create, services.workspace, name, scopes, body.tenant)
    else:
        work = partial(tokens.mint, services.workspace, name, scopes, body.tenant, lifetime, rps)
    return JSONResponse(await in_thread(services, work))


def _agree(name: str, *given: Any) -> None:
    """Refuse a value that is given twice with different values. Raises RK4009."""
    values = {str(value) for value in given if value is not None}
    if len(values) > 1:
        raise RookeryError(BAD_REQUEST, f"`{name}` is given twice, with different values")


def _lifetime_seconds(in_query: str | None, body: TokenBody) -> int | None:
    """Seconds until a token expires, from `ttl` or `expiration_time`; None for no expiry. Raises RK4009."""
    _agree("expiration_time", in_query, body.expiration_time)
    until = in_query if in_query is not None else body.expiration_time
    if until is None:
        return body.ttl
    if body.ttl is not None:
        raise RookeryError(BAD_REQUEST, "give either `ttl` or `expiration_time`")
    digits = str(until) if isinstance(until, str | int) and not isinstance(until, bool) else ""
    if not (digits.isascii() and digits.isdecimal() and len(digits) < 16):
        raise RookeryError(BAD_REQUEST, "`expiration_time` is a Unix time in seconds")
    return int(digits) - int(time.time())


async def token_route(request: Request) -> Response:
    """`GET|DELETE /v0/tokens/NAME`."""
    services = admin(request)
    name = request.path_params["name"]
    if request.method in READ_METHODS:
        token = await in_thread(services, partial(tokens.find, services.workspace, name))
        return JSONResponse(tokens.describe(services.workspace, token))
    await body_as(NoBody, request)
    await in_thread(services, partial(tokens.remove, services.workspace, name))
    return JSONResponse({"ok": True})


async def token_refresh(request: Request) -> Response:
    """`POST /v0/tokens/NAME/refresh`."""
    services = admin(request)
    await body_as(NoBody, request)
    work = partial(tokens.refresh, services.workspace, request.path_params["name"])
    return JSONResponse(await in_thread(services, work))


async def signing_key(request: Request) -> Response:
    """`GET /v0/signing-key`, and `POST` with `{overlap}` to rotate it."""
    services = admin(request)
    if request.method in READ_METHODS:
        return JSONResponse(await in_thread(services, partial(tokens.signing_key, services.workspace)))
    body = await body_as(SigningKeyBody, request)
    return JSONResponse(await in_thread(services, partial(tokens.rotate, services.workspace, body.overlap)))


def routes() -> list[Route]:
    return [
        Route("/v0/tokens", tokens_route, methods=["GET", "POST"]),
        Route("/v0/tokens/", tokens_route, methods=["GET", "POST"]),
        Route("/v0/tokens/{name:path}/refresh", token_refresh, methods=["POST"]),
        Route("/v0/tokens/{name:path}", token_route, methods=["GET", "DELETE"]),
        Route("/v0/signing-key", signing_key, methods=["GET", "POST"]),
    ]
