"""What a token permits: its scopes, and the claims that both kinds of tokens become."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.errors import BAD_SCOPE, BAD_TOKEN, RookeryError

WORKSPACE_SCOPES = ("ADMIN", "DEPLOY", "TENANTS:MANAGE", "TOKENS:MINT", "METRICS:READ", "READ:ALL")
"""Scope types for the whole workspace. They name no resource."""
RESOURCE_SCOPES = ("PIPES:READ", "DATASOURCES:READ", "DATASOURCES:APPEND")
"""Scope types for one resource."""
SCOPE_TYPES = WORKSPACE_SCOPES + RESOURCE_SCOPES
JWT_SCOPES = frozenset({*RESOURCE_SCOPES, "METRICS:READ", "READ:ALL"})
"""Scope types that a JWT can have. Anyone with the signing key can sign JWTs, and a single JWT cannot be revoked, so
they cannot change files, tenants or tokens.
"""
RESOURCE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,119}")


@dataclass(frozen=True, slots=True)
class Scope:
    """A single permission."""

    type: str
    """One of SCOPE_TYPES."""
    resource: str = ""
    """The pipe or datasource that it permits; empty for WORKSPACE_SCOPES."""
    filter: str | None = None
    """An SQL condition on the rows of a datasource that its holder can read."""
    fixed_params: Mapping[str, Any] = field(default_factory=dict)
    """Parameters of a pipe that its holder cannot change, with their values."""

    @staticmethod
    def parse(text: str) -> Scope:
        """Parse `TYPE:RESOURCE[:FILTER]`, where the type contains a colon itself. Raises RK4018."""
        if text in WORKSPACE_SCOPES:
            return Scope(text)
        # The filter may contain colons, so the scope is split from the left.
        kind, _, after_kind = text.partition(":")
        verb, _, after_verb = after_kind.partition(":")
        resource, _, row_filter = after_verb.partition(":")
        return Scope.of({"type": f"{kind}:{verb}", "resource": resource, "filter": row_filter.strip() or None})

    @staticmethod
    def of(body: Any) -> Scope:
        """Build a scope from plain data. Raises RK4018 if it is not valid or has unknown keys."""
        if not isinstance(body, dict) or set(body) - {"type", "resource", "filter", "fixed_params"}:
            message = "a scope must be an object with the keys type, resource, filter and fixed_params"
            raise RookeryError(BAD_SCOPE, message)
        kind, resource = body.get("type"), body.get("resource") or ""
        row_filter, fixed = body.get("filter"), body.get("fixed_params") or {}
        if kind not in SCOPE_TYPES:
            raise RookeryError(BAD_SCOPE, f"unknown scope type {kind!r}", hint="one of " + ", ".join(SCOPE_TYPES))
        if kind in WORKSPACE_SCOPES:
            if resource or row_filter or fixed:
                raise RookeryError(BAD_SCOPE, f"{kind} cannot have a resource, filter or fixed_params")
            return Scope(kind)
        if not isinstance(resource, str) or not RESOURCE.fullmatch(resource):
            raise RookeryError(BAD_SCOPE, f"{kind} needs the name of a resource", hint=f"{kind}:my_resource")
        if row_filter is not None and (not isinstance(row_filter, str) or kind != "DATASOURCES:READ"):
            raise RookeryError(BAD_SCOPE, "only DATASOURCES:READ can have a filter, which must be an SQL string")
        if not isinstance(fixed, dict) or (fixed and kind != "PIPES:READ"):
            raise RookeryError(BAD_SCOPE, "only PIPES:READ can have fixed_params, which must be an object")
        return Scope(kind, resource, row_filter or None, dict(fixed))

    def as_dict(self) -> dict[str, Any]:
        """The form in claims, in the registry and in responses."""
        body: dict[str, Any] = {"type": self.type}
        for key in ("resource", "filter", "fixed_params"):
            if getattr(self, key):
                body[key] = getattr(self, key)
        return body


@dataclass(frozen=True, slots=True)
class Claims:
    """The contents of a verified token. They are the only source of a request's tenant."""

    subject: str
    """The token's name, for logs and limits."""
    scopes: tuple[Scope, ...]
    tenant: str | None = None
    """A canonical tenant id; None for a token that is not limited to a tenant."""
    expires: int | None = None
    """When the token expires, in Unix seconds; None for a static token without an expiry."""
    rps: int | None = None
    """Maximum number of requests per second; None for no limit."""
    static_id: str | None = None
    """The nonce of a static token; None for a JWT."""

    @property
    def identity(self) -> tuple[str, str | None, str | None]:
        """Whose requests count together for limits. A JWT can have the name of a static token, but is another."""
        return self.subject, self.static_id, self.tenant

    @property
    def caller(self) -> tuple[Hashable, ...]:
        """Who shares limits and cached results: all tokens of a tenant, or a single token without one."""
        return ("token", self.identity) if self.tenant is None else ("tenant", self.tenant)

    @property
    def is_admin(self) -> bool:
        return "ADMIN" in self.types

    @property
    def reads_all(self) -> bool:
        """Whether the token reads the rows of all tenants."""
        return not self.types.isdisjoint(("ADMIN", "READ:ALL"))

    @property
    def types(self) -> frozenset[str]:
        """The types of the scopes."""
        return frozenset(s.type for s in self.scopes)

    def allowing(self, kind: str, resource: str) -> list[Scope]:
        """The scopes of this type for this resource."""
        return [s for s in self.scopes if s.type == kind and s.resource == resource]

    def fixed_params(self, pipe: str) -> dict[str, Any]:
        """The fixed parameters for a pipe. Raises RK4002 if two scopes fix a parameter to different values."""
        fixed: dict[str, Any] = {}
        for scope in self.allowing("PIPES:READ", pipe):
            for name, value in scope.fixed_params.items():
                if name in fixed and fixed[name] != value:
                    raise RookeryError(BAD_TOKEN, f"the token fixes `{name}` to two different values")
                fixed[name] = value
        return fixed

    def filters(self, datasource: str) -> tuple[str, ...]:
        """Row filters for a datasource; all of them apply."""
        return tuple(sorted({s.filter for s in self.allowing("DATASOURCES:READ", datasource) if s.filter}))


def check_combination(scopes: Sequence[Scope], tenant: str | None) -> None:
    """Refuse scopes that contradict one another or the tenant. Raises RK4018."""
    kinds = {s.type for s in scopes}
    if tenant is not None:
        # TOKENS:MINT is the exception: it mints tokens of this tenant only.
        unbound = next((k for k in WORKSPACE_SCOPES if k in kinds and k != "TOKENS:MINT"), None)
        if unbound is not None:
            raise RookeryError(BAD_SCOPE, f"a token with {unbound} cannot have a tenant")
    if "READ:ALL" in kinds and any(s.filter or s.fixed_params for s in scopes):
        raise RookeryError(BAD_SCOPE, "a token with READ:ALL cannot have filters or fixed_params")
