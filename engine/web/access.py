"""Which tokens may call which route. Every request passes the table `ACCESS` before the code of its route runs.

Routes only check what the table cannot know, such as the resource that a scope names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from engine.errors import SCOPE, RookeryError
from engine.query import authorize
from engine.tokens.claims import SCOPE_TYPES, Claims
from engine.web.requests import head_of

READ_METHODS = frozenset({"GET", "HEAD"})
"""Methods that do not change anything. Starlette also routes HEAD to every GET route."""
_CLAIMS_KEY = "rookery.claims"


def _only(*scopes: str) -> frozenset[str]:
    """Tokens with one of these scopes, and admins."""
    return frozenset({"ADMIN", *scopes})


PUBLIC: frozenset[str] = frozenset()
"""Access without a token."""
_CALL = _only("PIPES:READ", "READ:ALL")
_READ = _only("PIPES:READ", "DATASOURCES:READ", "READ:ALL")
_APPEND = _only("DATASOURCES:APPEND")
_DEPLOY = _only("DEPLOY")
_TENANTS = _only("TENANTS:MANAGE")
_TOKENS = _only("TOKENS:MINT")
ACCESS: Mapping[str, Mapping[str, frozenset[str]]] = {
    "/live": {"GET": PUBLIC},
    "/ready": {"GET": PUBLIC},
    "/docs/errors": {"GET": PUBLIC},
    "/docs/errors/{code}": {"GET": PUBLIC},
    "/metrics": {"GET": _only("METRICS:READ")},
    "/v0/pipes/{name}.{format}": {"GET": _CALL, "POST": _CALL},
    "/v0/pipes/{name}.": {"GET": _CALL, "POST": _CALL},
    "/v0/pipes/openapi.json": {"GET": frozenset(SCOPE_TYPES) - {"METRICS:READ"}},
    "/v0/pipes": {"GET": _DEPLOY},
    "/v0/pipes/{name}": {"GET": _DEPLOY, "DELETE": _DEPLOY},
    "/v0/pipes/{name}/explain": {"GET": _only(), "POST": _only()},
    "/v0/sql": {"GET": _READ, "POST": _READ},
    "/v0/events": {"POST": _APPEND},
    "/v0/events/{key}": {"GET": _APPEND},
    # Replacing all rows of a datasource also needs ADMIN.
    "/v0/datasources": {"GET": _DEPLOY, "POST": _APPEND},
    "/v0/datasources/{name}": {"GET": _DEPLOY, "DELETE": _DEPLOY},
    "/v0/datasources/{name}/quarantine": {"GET": _only(), "DELETE": _only()},
    "/v0/datasources/{name}/quarantine/replay": {"POST": _only()},
    "/v0/push": {"POST": _DEPLOY},
    "/v0/materialize": {"POST": _DEPLOY},
    "/v0/workspace": {"GET": _only("DEPLOY", "TENANTS:MANAGE", "TOKENS:MINT")},
    "/v0/tenants": {"GET": _TENANTS, "POST": _TENANTS},
    # Purging a tenant's rows also needs ADMIN.
    "/v0/tenants/{id}": {"GET": _TENANTS, "DELETE": _TENANTS},
    # With TOKENS:MINT, only tokens that have no rights beyond the caller's.
    "/v0/tokens": {"GET": _TOKENS, "POST": _TOKENS},
    "/v0/tokens/{name}": {"GET": _TOKENS, "DELETE": _TOKENS},
    "/v0/tokens/{name}/refresh": {"POST": _TOKENS},
    "/v0/signing-key": {"GET": _only(), "POST": _only()},
    "/v0/backup": {"POST": _only()},
    "/v0/fanout": {"GET": _only()},
    "/v0/fanout/retry": {"POST": _only()},
    "/v0/doctor": {"GET": _only(), "POST": _only()},
}
"""Scope types that may call a route, by its path and method. GET includes HEAD."""


def is_allowed(claims: Claims, path: str, method: str) -> bool:
    """Whether a token may call a route of `ACCESS`."""
    allowed = ACCESS[path][method]
    return allowed is PUBLIC or not allowed.isdisjoint(claims.types)


def authorize_request(scope: Scope, path: str) -> None:
    """Check the token of a request to a route, and keep its claims for `claims_of`.

    Raises RK4001 and RK4002 without a valid token, and RK4003 for one that may not call the route.
    """
    allowed = ACCESS[path]["GET" if scope["method"] == "HEAD" else scope["method"]]
    if allowed is PUBLIC:
        return
    claims = authorize.authenticate(scope["app"].state.rookery.workspace, head_of(scope).token())
    if allowed.isdisjoint(claims.types):
        raise RookeryError(
            SCOPE,
            "the token does not allow this request",
            hint=_hint(path, allowed),
        )
    scope[_CLAIMS_KEY] = claims


def _hint(path: str, allowed: frozenset[str]) -> str:
    """What to do about a token that does not allow a route."""
    needed = f"it needs the scope {' or '.join(s for s in SCOPE_TYPES if s in allowed)}"
    if path == "/v0/pipes/{name}":
        return f"{needed}; to call the endpoint, add a format, such as `.json`, to the path"
    return needed


def claims_of(scope: Scope) -> Claims:
    """The claims of the token of a request that was authorized."""
    claims: Claims = scope[_CLAIMS_KEY]
    return claims


def reads_all(scope: Scope) -> bool:
    """Whether a request has a valid token that reads the rows of all tenants."""
    claims: Claims | None = scope.get(_CLAIMS_KEY)
    return claims is not None and claims.reads_all


def require_admin(scope: Scope, action: str) -> None:
    """Raise RK4003 unless an admin sent the request. `action` says what needs an admin."""
    if not claims_of(scope).is_admin:
        raise RookeryError(SCOPE, f"only an admin may {action}", hint="it needs the scope ADMIN")


class Guarded:
    """A route's application, behind the check of the token."""

    def __init__(self, app: ASGIApp, path: str) -> None:
        self._app = app
        self._path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        authorize_request(scope, self._path)
        await self._app(scope, receive, send)


def guarded(routes: Iterable[Route]) -> list[Route]:
    """The routes behind the check of the token. Raises ValueError unless `ACCESS` has exactly these routes."""
    result, found = [], set()
    for route in routes:
        path, methods = route.path_format.rstrip("/"), (route.methods or set()) - {"HEAD"}
        found |= {(path, method) for method in methods}
        result.append(Route(route.path, Guarded(route.app, path), methods=sorted(methods)))
    differing = found ^ {(path, method) for path, methods in ACCESS.items() for method in methods}
    if differing:
        names = ", ".join(f"{method} {path}" for path, method in sorted(differing))
        raise ValueError(f"engine/web/access.py and the routes differ in: {names}")
    return result
