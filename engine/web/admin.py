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
from engine.control import derived, doctor, fanout, materialize, metrics, push, resources, tenants, tokens
from engine.errors import BAD_REQUEST, INTERNAL, SCOPE, UNKNOWN_RESOURCE, RookeryError
from engine.plan.state import Workspace
from engine.serve import access
from engine.tokens import Claims, Scope
from engine.web import openapi
from engine.web.data import append, call_pipe
from engine.web.requests import flag, json_of, token_of
from engine.web.state import State, state_of

NDJSON = "application/x-ndjson"
READING = frozenset({"GET", "HEAD"})
"""Methods that change nothing: wherever there is a GET route, the framework lets HEAD in too."""
Work = Callable[[Callable[[str, int, int], None]], Any]


def _admin(request: Request) -> State:
    state = state_of(request)
    access.authenticate(state.workspace, token_of(request)).require_admin()
    return state


async def _control(state: State, work: Callable[[], Any]) -> Any:
    return await anyio.to_thread.run_sync(work, limiter=state.control)


async def _with_progress(request: Request, state: State, work: Work) -> Response:
    """The result of long work; with `Accept: application/x-ndjson`, lines of progress first, then the result."""
    if NDJSON not in request.headers.get("accept", ""):
        return JSONResponse(await _control(state, partial(work, lambda _w, _d, _t: None)))
    return StreamingResponse(_progress_lines(state, work), media_type=NDJSON)


async def _progress_lines(state: State, work: Work) -> AsyncIterator[bytes]:
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
    """`POST /v0/push`: `{files: [{name, file, text}], dry_run, prune, allow, only, with_dependencies}`."""
    state = _admin(request)
    body = await json_of(request, state.workspace.settings.max_body)
    files = body.get("files", [])
    if not isinstance(files, list) or not all(isinstance(f, dict) for f in files):
        raise RookeryError(BAD_REQUEST, "`files` is a list of objects")
    options = push.PushOptions(
        dry_run=_bool(body, "dry_run"),
        prune=_bool(body, "prune"),
        allow=frozenset(_names(body, "allow")),
        only=frozenset(_names(body, "only")),
        with_dependencies=_bool(body, "with_dependencies"),
    )
    sources = push.sources_of(files)

    def work(progress: Any) -> Any:
        return push.push(state.workspace, sources, options, progress).as_dict()

    return await _with_progress(request, state, work)


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
    body = await json_of(request, state.workspace.settings.max_body)
    sources = push.sources_of(body.get("files", []))
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
    if request.method in READING:
        return JSONResponse({"tenants": await _control(state, partial(tenants.listing, state.workspace))})
    body = await json_of(request, state.workspace.settings.max_body)
    ids = _names(body, "ids") or [_text(body, "id")]
    placement = _optional(body, "placement")

    def work(progress: Any) -> Any:
        return {"tenants": [p.as_dict() for p in tenants.add(state.workspace, ids, placement, progress)]}

    return await _with_progress(request, state, work)


async def tenant_route(request: Request) -> Response:
    """`GET|DELETE /v0/tenants/ID`."""
    state = _admin(request)
    tenant = request.path_params["id"]
    if request.method in READING:
        return JSONResponse(await _control(state, partial(tenants.show, state.workspace, tenant)))
    purge = flag(request.query_params.get("purge"), False)
    await _control(state, partial(tenants.remove, state.workspace, tenant, purge=purge))
    return Response(status_code=204)


async def tokens_route(request: Request) -> Response:
    """`GET /v0/tokens`, and `POST` for a static token or, with `ttl` or `expiration_time`, a JWT."""
    state = _admin(request)
    if request.method in READING:
        return JSONResponse({"tokens": await _control(state, partial(tokens.listing, state.workspace))})
    body = await json_of(request, 1 << 20)
    name = request.query_params.get("name") or _text(body, "name")
    scopes = [Scope.parse(s) for s in request.query_params.getlist("scope")]
    given = body.get("scopes", [])
    if not isinstance(given, list):
        raise RookeryError(BAD_REQUEST, "`scopes` is a list")
    scopes += [Scope.parse(s) if isinstance(s, str) else Scope.of(s) for s in given]
    tenant, life = _optional(body, "tenant"), _life(request, body)
    if life is None:
        work = partial(tokens.create, state.workspace, name, scopes, tenant)
    else:
        work = partial(tokens.mint, state.workspace, name, scopes, tenant, life, _rps(body))
    return JSONResponse(await _control(state, work))


def _life(request: Request, body: dict[str, Any]) -> int | None:
    until = request.query_params.get("expiration_time")
    if until is not None:
        if not until.isdecimal():
            raise RookeryError(BAD_REQUEST, "`expiration_time` is a Unix time")
        return int(until) - int(time.time())
    ttl = body.get("ttl")
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
    if request.method in READING:
        found = await _control(state, partial(tokens.find, state.workspace, name))
        return JSONResponse(tokens.describe(state.workspace, found))
    await _control(state, partial(tokens.remove, state.workspace, name))
    return JSONResponse({"ok": True})


async def token_refresh(request: Request) -> Response:
    """`POST /v0/tokens/NAME/refresh`."""
    state = _admin(request)
    return JSONResponse(await _control(state, partial(tokens.refresh, state.workspace, request.path_params["name"])))


async def signing_key(request: Request) -> Response:
    """`GET /v0/signing-key`, and `POST` with `{overlap}` to rotate it."""
    state = _admin(request)
    if request.method in READING:
        return JSONResponse(await _control(state, partial(tokens.signing_key, state.workspace)))
    overlap = (await json_of(request, 1 << 16)).get("overlap", 86_400)
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
    """`/v0/pipes/NAME.FORMAT` calls the endpoint; `/v0/pipes/NAME` is the pipe itself."""
    name = request.path_params["name"]
    if "." in name and request.method != "DELETE":
        return await call_pipe(request)
    return await _resource(request, "pipe", name)


async def _resource(request: Request, kind: str, name: str) -> Response:
    state = state_of(request)
    claims = access.authenticate(state.workspace, token_of(request))
    if not claims.is_admin:
        raise RookeryError(SCOPE, "this needs the admin token")
    if request.method in READING:
        return JSONResponse(await _control(state, partial(resources.show, state.workspace, kind, name)))
    if request.method != "DELETE":
        raise RookeryError(UNKNOWN_RESOURCE, f"there is nothing to post to {kind} `{name[:120]}`")
    options = {k: flag(request.query_params.get(k), False) for k in ("force", "dry_run")}
    gone = await _control(state, partial(resources.remove, state.workspace, kind, name, **options))
    return JSONResponse({"removed": gone, "dry_run": options["dry_run"]})


async def openapi_route(request: Request) -> Response:
    """`GET /v0/pipes/openapi.json`: the endpoints that the token allows."""
    state = state_of(request)
    claims = access.authenticate(state.workspace, token_of(request))
    build = state.workspace.current.build
    names = sorted(n for n in build.endpoints if _allows(claims, n))
    return JSONResponse(openapi.document(build, names, public_url(state.workspace, request)))


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
    return JSONResponse(await _control(state, partial(fanout.status, state.workspace)))


async def fanout_retry(request: Request) -> Response:
    """`POST /v0/fanout/retry`."""
    state = _admin(request)
    return JSONResponse(await _control(state, partial(fanout.retry, state.workspace)))


async def doctor_route(request: Request) -> Response:
    """`GET /v0/doctor`; `deep=true` also compares rows. `POST` compares them and delivers what is missing."""
    state = _admin(request)
    if request.method == "POST":
        return JSONResponse(await _control(state, partial(derived.repair, state.workspace)))
    deep = flag(request.query_params.get("deep"), False)
    examination = await _control(state, partial(doctor.examine, state.workspace, deep=deep))
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
        Route("/v0/pipes/openapi.json", openapi_route),
        Route("/v0/pipes/{name}", pipe_route, methods=["GET", "POST", "DELETE"]),
    ]
