"""Routes on tokens and the workspace's signing keys."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from engine.control import signing_keys, tokens
from engine.errors import BAD_REQUEST, RookeryError
from engine.tokens.claims import Scope
from engine.web.access import READ_METHODS, claims_of
from engine.web.bodies import NoBody, SigningKeyBody, TokenBody, body_as
from engine.web.control import control, in_thread

MAX_TOKEN_BODY_BYTES = 1 << 20
"""Maximum size of the body for a token, whose filters may be long."""


async def tokens_route(request: Request) -> Response:
    """`GET /v0/tokens` lists tokens; `POST` creates a static token, or a JWT with `ttl` or `expiration_time`.

    With `static`, the token is static even if it expires.
    """
    reading, caller = request.method in READ_METHODS, claims_of(request.scope)
    services = control(request, *(() if reading else ("name", "scope", "expiration_time")), lists=("scope",))
    if reading:
        return JSONResponse(
            {"tokens": await in_thread(services, partial(tokens.listing, services.workspace, caller))}
        )
    body = await body_as(TokenBody, request, MAX_TOKEN_BODY_BYTES)
    query = request.query_params
    _require_equal("name", query.get("name"), body.name)
    # Tinybird's clients send the name and the scopes in the query.
    name = query.get("name") or body.name
    if not name:
        raise RookeryError(BAD_REQUEST, "`name` must be a non-empty string")
    scopes = [Scope.parse(s) for s in query.getlist("scope")]
    scopes += [Scope.parse(s) if isinstance(s, str) else Scope.of(s) for s in body.scopes]
    lifetime = _lifetime_seconds(query.get("expiration_time"), body)
    rps = body.limits.rps if body.limits else None
    if lifetime is None or body.static:
        if rps is not None:
            raise RookeryError(BAD_REQUEST, "a static token cannot have `limits`", hint="mint a JWT by setting `ttl`")
        static = tokens.StaticRequest(name, scopes, body.tenant, lifetime)
        work = partial(tokens.create, services.workspace, caller, static)
    else:
        jwt = tokens.JwtRequest(name, tuple(scopes), body.tenant, lifetime, rps)
        work = partial(tokens.mint, services.workspace, caller, jwt)
    return JSONResponse(await in_thread(services, work, changes=lifetime is None or body.static))


def _require_equal(name: str, in_query: Any, in_body: Any) -> None:
    """Raise RK4009 if the query and the body have different values."""
    if in_query is not None and in_body is not None and str(in_query) != str(in_body):
        raise RookeryError(BAD_REQUEST, f"the query and the body have different values of `{name}`")


def _lifetime_seconds(in_query: str | None, body: TokenBody) -> int | None:
    """Seconds until a token expires, from `ttl` or `expiration_time`; None for no expiry. Raises RK4009."""
    _require_equal("expiration_time", in_query, body.expiration_time)
    expires = in_query if in_query is not None else body.expiration_time
    if expires is None:
        return body.ttl
    if body.ttl is not None:
        raise RookeryError(BAD_REQUEST, "set either `ttl` or `expiration_time`, not both")
    digits = str(expires) if isinstance(expires, str | int) and not isinstance(expires, bool) else ""
    if not (digits.isascii() and digits.isdecimal() and len(digits) < 16):
        raise RookeryError(BAD_REQUEST, "`expiration_time` must be a Unix time in seconds")
    return int(digits) - int(time.time())


async def token_route(request: Request) -> Response:
    """`GET|DELETE /v0/tokens/NAME`: show or remove a static token."""
    services, caller = control(request), claims_of(request.scope)
    name = request.path_params["name"]
    if request.method in READ_METHODS:
        token = await in_thread(services, partial(tokens.find, services.workspace, caller, name))
        return JSONResponse(tokens.describe(services.workspace, token))
    await body_as(NoBody, request)
    await in_thread(services, partial(tokens.remove, services.workspace, caller, name), changes=True)
    return JSONResponse({"ok": True})


async def token_refresh(request: Request) -> Response:
    """`POST /v0/tokens/NAME/refresh`: replace a static token."""
    services = control(request)
    await body_as(NoBody, request)
    work = partial(tokens.refresh, services.workspace, claims_of(request.scope), request.path_params["name"])
    return JSONResponse(await in_thread(services, work, changes=True))


async def signing_key(request: Request) -> Response:
    """`GET /v0/signing-key` shows the key; `POST` with `{overlap}` rotates it."""
    services = control(request)
    if request.method in READ_METHODS:
        return JSONResponse(await in_thread(services, partial(signing_keys.newest, services.workspace)))
    body = await body_as(SigningKeyBody, request)
    work = partial(signing_keys.rotate, services.workspace, body.overlap)
    return JSONResponse(await in_thread(services, work, changes=True))


def routes() -> list[Route]:
    return [
        Route("/v0/tokens", tokens_route, methods=["GET", "POST"]),
        Route("/v0/tokens/", tokens_route, methods=["GET", "POST"]),
        Route("/v0/tokens/{name:path}/refresh", token_refresh, methods=["POST"]),
        Route("/v0/tokens/{name:path}", token_route, methods=["GET", "DELETE"]),
        Route("/v0/signing-key", signing_key, methods=["GET", "POST"]),
    ]
