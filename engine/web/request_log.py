"""Gives every request an id, writes its line in the access log, and counts it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any

from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine.errors import STOPPING, RookeryError
from engine.observe import logs, metrics, requests
from engine.observe.metrics import RequestMetrics
from engine.observe.requests import REQUEST_ID_HEADER, RequestRecord
from engine.settings import Settings
from engine.web.errors import error_body

RECORD_KEY = "rookery.request"
"""The key of a request's record in its ASGI scope."""
FORWARDED_HEADER = b"x-forwarded-for"
_AGAIN = "send the request again; an append that has an idempotency key is stored once"
MAX_FORWARDED_ADDRESSES = 20
"""Addresses of the header that are examined, from its end."""


class RequestLog:
    """What happens when requests end. One per application, used on its event loop."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._writes_lines = settings.access_log
        self.shows_paths = settings.log_level == "debug"
        self._trusted = [ip_network(proxy) for proxy in settings.trusted_proxies]
        self.metrics = RequestMetrics()

    def begin(self, scope: Scope) -> RequestRecord:
        """A record for a request whose head has arrived."""
        headers = dict(reversed(scope["headers"]))
        peer = scope["client"][0] if scope.get("client") else ""
        record = RequestRecord(requests.request_id(headers.get(REQUEST_ID_HEADER.encode())), scope["method"])
        record.client = self._client(peer, scope["headers"]) if self._trusted else peer
        return record

    def end(self, record: RequestRecord) -> None:
        """Log and count a request. Called once per request."""
        record.end()
        self.metrics.count(record)
        if self._writes_lines:
            logs.log_request(record)

    def _client(self, peer: str, headers: Iterable[tuple[bytes, bytes]]) -> str:
        """The client's address behind trusted proxies: the last one that is not itself a trusted proxy's.

        Each proxy adds the address of its peer at the end of the header, so what is in front of an address that is
        not trusted may be made up.
        """
        forwarded = b",".join(value for name, value in headers if name == FORWARDED_HEADER).decode("latin-1")
        hops = [hop.strip() for hop in forwarded.rsplit(",", MAX_FORWARDED_ADDRESSES)]
        client = peer
        while self._is_trusted(client) and hops:
            hop = hops.pop()
            if not _is_address(hop):
                break
            client = hop
        return client

    def _is_trusted(self, address: str) -> bool:
        try:
            parsed = ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self._trusted)


def _is_address(text: str) -> bool:
    with suppress(ValueError):
        ip_address(text)
        return True
    return False


@dataclass(slots=True)
class LoggedRequests:
    """The outermost middleware. It also sees the responses to errors that no handler expects."""

    app: ASGIApp
    log: RequestLog
    routes: dict[Any, str]
    """The path of each route by its endpoint."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        record: RequestRecord | None = scope.get(RECORD_KEY)
        if record is None:
            # Without rookery's own connections, as in tests, there is no record yet.
            record = scope[RECORD_KEY] = self.log.begin(scope)
        if self.log.shows_paths:
            # An admin token may be any text, so a path that could contain one by mistake is not shown.
            record.path = "/v0/tokens/…" if scope["path"].startswith("/v0/tokens/") else scope["path"]
        id_header = (REQUEST_ID_HEADER.encode(), record.id.encode())
        requests.work_for(record)
        metrics.IN_FLIGHT.inc()

        async def observed_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.respond(message["status"])
                message = {**message, "headers": [*message.get("headers", ()), id_header]}
            elif message["type"] == "http.response.body":
                record.bytes += len(message.get("body", b"")) if record.method != "HEAD" else 0
                record.complete = record.complete or not message.get("more_body", False)
            await send(message)

        try:
            await self.app(scope, receive, observed_send)
        except asyncio.CancelledError:
            # The server cancels requests that still run ROOKERY_STOP_SECONDS after the signal to stop. If a response
            # has begun, the client sees that it is incomplete.
            if not record.status:
                await self._refusal()(scope, receive, observed_send)
        finally:
            metrics.IN_FLIGHT.dec()
            requests.work_for(None)
            record.route = record.route or self.routes.get(scope.get("endpoint"), "")
            record.endpoint = _deployed_endpoint(scope)
            record.status = record.status or 500
            self.log.end(record)

    def _refusal(self) -> JSONResponse:
        """The response to a request that did not end before the server had to stop."""
        exc = RookeryError(STOPPING, STOPPING.title, hint=_AGAIN)
        return JSONResponse(error_body(exc, self.log.settings), STOPPING.status, {"Retry-After": "5"})


def _deployed_endpoint(scope: Scope) -> str:
    """The deployed endpoint that a request names, even if its token may not call it; empty for other names."""
    parameters = scope.get("path_params") or {}
    if "format" not in parameters:
        return ""
    endpoints = scope["app"].state.rookery.workspace.current.build.endpoints
    return parameters["name"] if parameters["name"] in endpoints else ""


def paths_by_endpoint(routes: Iterable[Route]) -> dict[Any, str]:
    """The path of each route, as in `docs/http.md`, by the function or object that answers it."""
    paths: dict[Any, str] = {}
    for route in routes:
        # Some routes also exist with a slash at the end, or match names that contain slashes.
        paths.setdefault(route.endpoint, route.path.replace(":path", "").rstrip("/"))
    return paths
