"""Routes on pipes: calls of endpoints, their OpenAPI document and, for admins, the deployed pipes."""

from __future__ import annotations

from functools import partial

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from engine.control import resources
from engine.errors import BAD_FORMAT, RookeryError
from engine.observe.timer import Timer
from engine.query.explain import explain
from engine.query.request import QueryRequest
from engine.tokens.claims import Claims
from engine.warehouse.port import Format
from engine.web import openapi
from engine.web.access import claims_of
from engine.web.control import control, in_thread
from engine.web.query_response import respond, run_to_end
from engine.web.requests import head_of, parameters_of
from engine.web.resources import resource
from engine.web.services import services_of
from engine.workspace.workspace import Workspace

FORMATS = {"json": Format.JSON, "csv": Format.CSV, "ndjson": Format.NDJSON, "parquet": Format.PARQUET}
MAX_PARAMETER_BYTES = 1 << 20
"""Maximum size of a body with parameters."""


async def call_pipe(request: Request) -> Response:
    """`GET|POST /v0/pipes/NAME.FORMAT`."""
    services, timer, head = services_of(request), Timer(), head_of(request.scope)
    name, suffix = request.path_params["name"], request.path_params.get("format", "")
    if suffix not in FORMATS:
        raise RookeryError(BAD_FORMAT, f"unknown format `{suffix[:20]}`", hint="json, csv, ndjson or parquet")
    parameters = await parameters_of(request, MAX_PARAMETER_BYTES)
    timer.stage("auth")
    query = QueryRequest(claims_of(request.scope), parameters, FORMATS[suffix], head.impersonated_tenant(), timer)
    return await respond(request, query, lambda query: services.queries.endpoint(query, name), suffix)


async def explain_route(request: Request) -> Response:
    """`GET|POST /v0/pipes/NAME/explain`: run a call of an endpoint, and describe how it ran."""
    services, name = services_of(request), request.path_params["name"]
    head, parameters = head_of(request.scope), await parameters_of(request, MAX_PARAMETER_BYTES)
    query = QueryRequest(claims_of(request.scope), parameters, Format.JSON, head.impersonated_tenant())
    return JSONResponse(
        await run_to_end(request, query, partial(explain, services.queries, services.workspace, name))
    )


async def pipe_route(request: Request) -> Response:
    """`GET|DELETE /v0/pipes/NAME`."""
    return await resource(request, "pipe", request.path_params["name"])


async def pipes_route(request: Request) -> Response:
    """`GET /v0/pipes`."""
    services = control(request)
    return JSONResponse({"pipes": await in_thread(services, partial(resources.pipes, services.workspace))})


async def openapi_route(request: Request) -> Response:
    """`GET /v0/pipes/openapi.json`: the endpoints that the token allows."""
    services, claims = control(request), claims_of(request.scope)
    build = services.workspace.current.build
    # Names of other endpoints would tell a tenant's token what other tokens can call.
    names = sorted(n for n in build.endpoints if _allows(claims, n))
    return JSONResponse(openapi.document(build, names, public_url(services.workspace, request), claims))


def _allows(claims: Claims, name: str) -> bool:
    """Whether a token may call an endpoint."""
    return claims.reads_all or bool(claims.allowing("PIPES:READ", name))


def public_url(workspace: Workspace, request: Request) -> str:
    """The URL under which clients reach the server."""
    return (workspace.settings.public_url or str(request.base_url)).rstrip("/")


def routes() -> list[Route]:
    return [
        # Comes before the route for calls, which would interpret it as a pipe named `openapi`.
        Route("/v0/pipes/openapi.json", openapi_route),
        Route("/v0/pipes/{name}.{format}", call_pipe, methods=["GET", "POST"]),
        # A call without a format, which is refused as such and not as a request for the pipe.
        Route("/v0/pipes/{name}.", call_pipe, methods=["GET", "POST"]),
        Route("/v0/pipes/{name}/explain", explain_route, methods=["GET", "POST"]),
        Route("/v0/pipes", pipes_route),
        Route("/v0/pipes/{name}", pipe_route, methods=["GET", "DELETE"]),
    ]
