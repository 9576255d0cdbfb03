"""Control routes: push and plan, tenants, tokens, resources. Admin tokens only, but for what says otherwise."""

from __future__ import annotations

import queue
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import anyio.to_thread
import orjson
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from engine import observe
from engine.control import fanout_status, materialize, metrics, push, resources, tenants, tokens
from engine.control.doctor import derived_tables, run
from engine.errors import BAD_REQUEST, INTERNAL, SCOPE, RookeryError
from engine.query import authorize
from engine.tokens import Claims, Scope
from engine.web import openapi
from engine.web.data import append, call_pipe
from engine.web.known_fields import check_names, check_query
from engine.web.requests import flag, json_of, token_of
from engine.web.services import Services, services_of
from engine.workspace.workspace import Workspace

MAX_CONTROL_BODY_BYTES = 1 << 16
"""Bytes of a body that has little to say."""
NDJSON = "application/x-ndjson"
READ_METHODS = frozenset({"GET", "HEAD"})
"""Methods that change nothing: wherever there is a GET route, the framework lets HEAD in too."""
Work = Callable[[Callable[[str, int, int], None]], Any]


def _admin(request: Request, *known: str) -> Services:
    """The state, for an admin who sends no other query parameters than are known."""
    state = services_of(request)
    authorize.authenticate(state.workspace, token_of(request)).require_admin()
    check_query(request, known)
    return state


async def _control(state: Services, work: Callable[[], Any]) -> Any:
    return await anyio.to_thread.run_sync(work, limiter=state.control)


async def _with_progress(request: Request, state: Services, work: Work) -> Response:
    """The result of long work; with `Accept: application/x-ndjson`, lines of progress first, then the result."""
    if NDJSON not in request.headers.get("accept", ""):
        return JSONResponse(await _control(state, partial(work, lambda _w, _d, _t: None)))
    return StreamingResponse(_progress_lines(state, work), media_type=NDJSON)


async def _progress_lines(state: Services, work: Work) -> AsyncIterator[bytes]:
    lines: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()

    def watched() -> None:
        try:
            lines.put({"result": work(lambda w, d, t: lines.put({"progress": {"what": w, "done": d, "total": t}}))})
        except RookeryError as exc:
            lines.put({"failure": {**exc.as_dict(), "status": exc.code.status}})
        except Exception as exc:
            failure = RookeryError(INTERNAL, "internal error", detail=repr(exc))
            lines.put({"failure": {**failure.as_dict(), "status": 500}})
            raise
        finally:
            lines.put(None)

    async with anyio.create_task_group() as group:
        group.start_soon(partial(anyio.to_thread.run_sync, watched, limiter=state.control))
        while (line := await anyio.to_thread.run_sync(lines.get)) is not None:
            yield orjson.dumps(line) + b"\n"


async def push_route(request: Request) -> Response:
    """`POST /v0/push`: `{files: [{name, file, text}], dry_run, prune, allow, skip_backfill, only, …}`."""
    state = _admin(request)
    body = await json_of(
        request,
        state.workspace.settings.max_body,
        {"files", "dry_run", "prune", "allow", "only", "with_dependencies", "skip_backfill"},
    )
    files = _files(body)
    options = push.PushOptions(
        dry_run=_bool(body, "dry_run"),
        prune=_bool(body, "prune"),
        allow=frozenset(_names(body, "allow")),
        only=frozenset(_names(body, "only")),
        with_dependencies=_bool(body, "with_dependencies"),
        skip_backfill=frozenset(_names(body, "skip_backfill")),
    )
    sources = push.sources_of(files)

    def work(progress: Any) -> Any:
        return push.push(state.workspace, sources, options, progress).as_dict()

    return await _with_progress(request, state, work)


def _files(body: dict[str, Any]) -> list[dict[str, Any]]:
    files = body.get("files")
    if not isinstance(files, list) or not all(isinstance(f, dict) for f in files):
        what = "is needed, as" if files is None else "is"
        raise RookeryError(
            BAD_REQUEST, f"`files` {what} a list of objects", hint="each has the keys name, file and text"
        )
    for file in files:
        check_names("key of a file", file, {"name", "file", "text"})
    return files


def _bool(body: dict[str, Any], key: str) -> bool:
    value = body.get(key, False)
    if not isinstance(value, bool):
        raise RookeryError(BAD_REQUEST, f"`{key}` is true or false")
    return value


def _names(body: dict[str, Any], key: str) -> list[str]:
    value = body.get(key, [])
    if not isinstance(value, list) or not all(isinstance(x, str) for x in value):
        raise RookeryError(BAD_REQUEST, f"`{key}` is a list of names")
    return value


def _text(body: dict[str, Any], key: str) -> str:
    value = body.get(key)
    if not isinstance(value, str) or not value:
        raise RookeryError(BAD_REQUEST, f"`{key}` is needed, as text")
    return value


def _optional(body: dict[str, Any], key: str) -> str | None:
    return _text(body, key) if body.get(key) is not None else None


async def materialize_route(request: Request) -> Response:
    """`POST /v0/materialize`: propose the files; nothing is changed."""
    state = _admin(request)
    known = {"files", "pipe", "target", "node", "per_tenant"}
    body = await json_of(request, state.workspace.settings.max_body, known)
    sources = push.sources_of(_files(body))
    work = partial(
        materialize.propose,
        state.workspace,
        sources,
        _text(body, "pipe"),
        _text(body, "target"),
        node=_optional(body, "node"),
        per_tenant=_bool(body, "per_tenant"),
    )
    return JSONResponse((await _control(state, work)).as_dict())


async def tenants_route(request: Request) -> Response:
    """`GET /v0/tenants`, and `POST` with `{id | ids, placement}`."""
    state = _admin(request)
    if request.method in READ_METHODS:
        return JSONResponse({"tenants": await _control(state, partial(tenants.listing, state.workspace))})
    body = await json_of(request, state.workspace.settings.max_body, {"id", "ids", "placement"})
    if "id" in body and "ids" in body:
        raise RookeryError(BAD_REQUEST, "give either `id` or `ids`")
    ids = _names(body, "ids") or [_text(body, "id")]
    placement = _optional(body, "placement")

    def work(progress: Any) -> Any:
        return {"tenants": [p.as_dict() for p in tenants.add(state.workspace, ids, placement, progress)]}

    return await _with_progress(request, state, work)


async def tenant_route(request: Request) -> Response:
    """`GET|DELETE /v0/tenants/ID`; `purge`, and `allow` with names separated by commas."""
    reading = request.method in READ_METHODS
    state = _admin(request, *(() if reading else ("purge", "allow")))
    tenant = request.path_params["id"]
    if reading:
        return JSONResponse(await _control(state, partial(tenants.show, state.workspace, tenant)))
    await json_of(request, MAX_CONTROL_BODY_BYTES, ())
    purge = flag(request.query_params.get("purge"), False, "purge")
    allow = [n for n in request.query_params.get("allow", "").split(",") if n]
    await _control(state, partial(tenants.remove, state.workspace, tenant, purge=purge, allow=allow))
    return Response(status_code=204)


async def tokens_route(request: Request) -> Response:
    """`GET /v0/tokens`, and `POST` for a static token or, with `ttl` or `expiration_time`, a JWT."""
    reading = request.method in READ_METHODS
    state = _admin(request, *(() if reading else ("name", "scope", "expiration_time")))
    if reading:
        return JSONResponse({"tokens": await _control(state, partial(tokens.listing, state.workspace))})
    body = await json_of(request, 1 << 20, {"name", "scopes", "tenant", "ttl", "expiration_time", "limits"})
    query = request.query_params
    _one_of("name", query.get("name"), body.get("name"))
    name = query.get("name") or _text(body, "name")
    scopes = [Scope.parse(s) for s in request.query_params.getlist("scope")]
    given = body.get("scopes", [])
    if not isinstance(given, list):
        raise RookeryError(BAD_REQUEST, "`scopes` is a list")
    scopes += [Scope.parse(s) if isinstance(s, str) else Scope.of(s) for s in given]
    tenant, life = _optional(body, "tenant"), _life(request, body)
    if life is None:
        if _rps(body) is not None:
            raise RookeryError(BAD_REQUEST, "a static token has no `limits`", hint="mint a JWT: give it a `ttl`")
        work = partial(tokens.create, state.workspace, name, scopes, tenant)
    else:
        work = partial(tokens.mint, state.workspace, name, scopes, tenant, life, _rps(body))
    return JSONResponse(await _control(state, work))


def _one_of(name: str, *given: Any) -> None:
    """Refuse a value that is given twice and not alike. Raises RK4009."""
    found = [value for value in given if value is not None]
    if any(str(value) != str(found[0]) for value in found[1:]):
        raise RookeryError(BAD_REQUEST, f"`{name}` is given twice, with different values")


def _life(request: Request, body: dict[str, Any]) -> int | None:
    """Seconds that a token lives, from `ttl` or `expiration_time`; None where it does not expire. Raises RK4009."""
    query, inner, ttl = request.query_params.get("expiration_time"), body.get("expiration_time"), body.get("ttl")
    _one_of("expiration_time", query, inner)
    until = query if query is not None else inner
    if until is not None:
        if ttl is not None:
            raise RookeryError(BAD_REQUEST, "give either `ttl` or `expiration_time`")
        number = str(until) if isinstance(until, str | int) and not isinstance(until, bool) else ""
        if not (number.isascii() and number.isdecimal() and len(number) < 16):
            raise RookeryError(BAD_REQUEST, "`expiration_time` is a Unix time in seconds")
        return int(number) - int(time.time())
    if ttl is not None and (not isinstance(ttl, int) or isinstance(ttl, bool)):
        raise RookeryError(BAD_REQUEST, "`ttl` is a number of seconds")
    return ttl


def _rps(body: dict[str, Any]) -> int | None:
    """Requests per second, None where nothing is said of them. Raises RK4009 for what would be no limit."""
    limits = body.get("limits")
    if limits is None or limits in ({}, {"rps": None}):
        return None
    rps = limits.get("rps") if isinstance(limits, dict) and not set(limits) - {"rps"} else None
    if not isinstance(rps, int) or isinstance(rps, bool) or rps < 1:
        raise RookeryError(BAD_REQUEST, "`limits` is `rps`, a whole number from 1")
    return rps


async def token_route(request: Request) -> Response:
    """`GET|DELETE /v0/tokens/NAME`."""
    state = _admin(request)
    name = request.path_params["name"]
    if request.method in READ_METHODS:
        found = await _control(state, partial(tokens.find, state.workspace, name))
        return JSONResponse(tokens.describe(state.workspace, found))
    await json_of(request, MAX_CONTROL_BODY_BYTES, ())
    await _control(state, partial(tokens.remove, state.workspace, name))
    return JSONResponse({"ok": True})


async def token_refresh(request: Request) -> Response:
    """`POST /v0/tokens/NAME/refresh`."""
    state = _admin(request)
    await json_of(request, MAX_CONTROL_BODY_BYTES, ())
    return JSONResponse(await _control(state, partial(tokens.refresh, state.workspace, request.path_params["name"])))


async def signing_key(request: Request) -> Response:
    """`GET /v0/signing-key`, and `POST` with `{overlap}` to rotate it."""
    state = _admin(request)
    if request.method in READ_METHODS:
        return JSONResponse(await _control(state, partial(tokens.signing_key, state.workspace)))
    overlap = (await json_of(request, MAX_CONTROL_BODY_BYTES, {"overlap"})).get("overlap", 86_400)
    if not isinstance(overlap, int) or isinstance(overlap, bool):
        raise RookeryError(BAD_REQUEST, "`overlap` is a number of seconds")
    return JSONResponse(await _control(state, partial(tokens.rotate, state.workspace, overlap)))


async def datasources_route(request: Request) -> Response:
    """`GET /v0/datasources`; `POST` appends and needs only an append token."""
    if request.method == "POST":
        return await append(request)
    state = _admin(request)
    return JSONResponse({"datasources": await _control(state, partial(resources.datasources, state.workspace))})


async def datasource_route(request: Request) -> Response:
    """`GET|DELETE /v0/datasources/NAME`."""
    return await _resource(request, "datasource", request.path_params["name"])


async def pipes_route(request: Request) -> Response:
    """`GET /v0/pipes`."""
    state = _admin(request)
    return JSONResponse({"pipes": await _control(state, partial(resources.pipes, state.workspace))})


async def pipe_route(request: Request) -> Response:
    """`GET|DELETE /v0/pipes/NAME`; a dot at the end is an endpoint's, before a format that is not there."""
    name = request.path_params["name"]
    if name.endswith("."):
        request.path_params.update(name=name[:-1], format="")
        return await call_pipe(request)
    return await _resource(request, "pipe", name)


async def _resource(request: Request, kind: str, name: str) -> Response:
    state = services_of(request)
    claims = authorize.authenticate(state.workspace, token_of(request))
    if not claims.is_admin:
        raise RookeryError(SCOPE, "this needs the admin token")
    flags = ("force", "dry_run") if request.method == "DELETE" else ()
    check_query(request, flags)
    if request.method in READ_METHODS:
        return JSONResponse(await _control(state, partial(resources.show, state.workspace, kind, name)))
    await json_of(request, MAX_CONTROL_BODY_BYTES, ())
    options = {k: flag(request.query_params.get(k), False, k) for k in flags}
    gone = await _control(state, partial(resources.remove, state.workspace, kind, name, **options))
    return JSONResponse({"removed": gone, "dry_run": options["dry_run"]})


async def openapi_route(request: Request) -> Response:
    """`GET /v0/pipes/openapi.json`: the endpoints that the token allows."""
    state = services_of(request)
    claims = authorize.authenticate(state.workspace, token_of(request))
    check_query(request)
    build = state.workspace.current.build
    names = sorted(n for n in build.endpoints if _allows(claims, n))
    kinds = {"PIPES:READ": "read", "DATASOURCES:READ": "read", "DATASOURCES:APPEND": "append", "ADMIN": "admin"}
    who = frozenset(kinds[s.type] for s in claims.scopes)
    return JSONResponse(openapi.document(build, names, public_url(state.workspace, request), who))


def _allows(claims: Claims, name: str) -> bool:
    return claims.is_admin or bool(claims.allowing("PIPES:READ", name))


def public_url(workspace: Workspace, request: Request) -> str:
    return (workspace.settings.public_url or str(request.base_url)).rstrip("/")


async def workspace_route(request: Request) -> Response:
    """`GET /v0/workspace`."""
    state = _admin(request)
    snapshot = state.workspace.current
    capabilities = state.workspace.warehouse.capabilities
    return JSONResponse(
        {
            "name": state.workspace.name,
            "version": snapshot.version,
            "timezone": state.workspace.zone,
            "engine": {"version": capabilities.version, "embedded": capabilities.embedded},
            "datasources": len(snapshot.build.datasources),
            "pipes": len(snapshot.build.pipes),
            "tenants": len(snapshot.tenants),
        }
    )


async def fanout_route(request: Request) -> Response:
    """`GET /v0/fanout`."""
    state = _admin(request)
    return JSONResponse(await _control(state, partial(fanout_status.status, state.workspace)))


async def fanout_retry(request: Request) -> Response:
    """`POST /v0/fanout/retry`."""
    state = _admin(request)
    await json_of(request, MAX_CONTROL_BODY_BYTES, ())
    return JSONResponse(await _control(state, partial(fanout_status.retry, state.workspace)))


async def doctor_route(request: Request) -> Response:
    """`GET /v0/doctor`; `deep=true` also compares rows. `POST`, with `allow`, delivers what is missing."""
    state = _admin(request, *(() if request.method == "POST" else ("deep",)))
    if request.method == "POST":
        body = await json_of(request, MAX_CONTROL_BODY_BYTES, {"allow"})
        allow = _names(body, "allow")
        return JSONResponse(await _control(state, partial(derived_tables.repair, state.workspace, allow)))
    deep = flag(request.query_params.get("deep"), False, "deep")
    examination = await _control(state, partial(run.examine, state.workspace, deep=deep))
    return JSONResponse(examination.as_dict())


async def metrics_route(request: Request) -> Response:
    """`GET /metrics`, for Prometheus."""
    state = _admin(request)
    text = await _control(state, partial(metrics.exposition, state.workspace, state.gateway.waiting_bytes))
    return Response(text, media_type=observe.EXPOSITION)


def routes() -> list[Route]:
    return [
        Route("/metrics", metrics_route),
        Route("/v0/workspace", workspace_route),
        Route("/v0/fanout", fanout_route),
        Route("/v0/fanout/retry", fanout_retry, methods=["POST"]),
        Route("/v0/doctor", doctor_route, methods=["GET", "POST"]),
        Route("/v0/push", push_route, methods=["POST"]),
        Route("/v0/materialize", materialize_route, methods=["POST"]),
        Route("/v0/tenants", tenants_route, methods=["GET", "POST"]),
        Route("/v0/tenants/{id:path}", tenant_route, methods=["GET", "DELETE"]),
        Route("/v0/tokens", tokens_route, methods=["GET", "POST"]),
        Route("/v0/tokens/", tokens_route, methods=["GET", "POST"]),
        Route("/v0/tokens/{name:path}/refresh", token_refresh, methods=["POST"]),
        Route("/v0/tokens/{name:path}", token_route, methods=["GET", "DELETE"]),
        Route("/v0/signing-key", signing_key, methods=["GET", "POST"]),
        Route("/v0/datasources", datasources_route, methods=["GET", "POST"]),
        Route("/v0/datasources/{name}", datasource_route, methods=["GET", "DELETE"]),
        Route("/v0/pipes", pipes_route),
        Route("/v0/pipes/{name}", pipe_route, methods=["GET", "DELETE"]),
    ]
