"""Minters: static tokens with TOKENS:MINT, and the tokens that they mint."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

import httpx

from tests.support.server import Server

MINT = "TOKENS:MINT"
EVENTS = "DATASOURCES:READ:events"
RAW = "PIPES:READ:raw"
SALES = {"type": "PIPES:READ", "resource": "by_kind", "fixed_params": {"kind": "sale"}}
VIEWS = {"type": "PIPES:READ", "resource": "by_kind", "fixed_params": {"kind": "view"}}
Scopes = Sequence[str | dict[str, Any]]


numbers = itertools.count()


def minter(server: Server, scopes: Scopes, tenant: str | None = None) -> str:
    return server.static(f"minter {next(numbers)}", MINT, *scopes, tenant=tenant)


def mint(
    server: Server, token: str, scopes: Scopes, tenant: str | None = None, *, ttl: int | None = 600
) -> httpx.Response:
    """A JWT, or without `ttl` a static token, that a minter asks for."""
    body = {"name": f"minted {next(numbers)}", "scopes": list(scopes), "tenant": tenant, "ttl": ttl}
    return server.post("/v0/tokens", token, json=body)


def error(response: httpx.Response, name: str = "\0") -> str:
    """A refusal without the request's id and without a name in it."""
    body = {k: v for k, v in response.json().items() if k != "request_id"}
    return f"{response.status_code} {json.dumps(body)}".replace(name, "NAME")
