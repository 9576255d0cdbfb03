"""Random minters: a minted token sees no more than its minter."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.support.server import Server
from tests.support.soak import sampled, soak_rounds
from tests.web.minters import MINT, mint

# --- random minters ------------------------------------------------------------------------------------------------

FILTERS = {
    "events": ("units < 9", "kind = 'view'", "note LIKE '%a'", "tenant_id = 1", "tenant_id = 2"),
    "daily": ("kind = 'view'", "units > 2"),
    "notes": ("text != ''",),
}
KINDS = (None, "view", "sale", "rent")
CONTROL = ("/v0/tenants", "/v0/tokens", "/v0/pipes", "/metrics")


def random_scopes(chance: random.Random) -> list[dict[str, Any]]:
    scopes: list[dict[str, Any]] = []
    for _ in range(chance.randint(1, 4)):
        choice = chance.randrange(5)
        if choice == 0:
            scopes.append({"type": "PIPES:READ", "resource": "raw"})
        elif choice == 1:
            kind = chance.choice(KINDS)
            fixed = {"fixed_params": {"kind": kind}} if kind else {}
            scopes.append({"type": "PIPES:READ", "resource": "by_kind", **fixed})
        elif choice < 4:
            name = chance.choice(list(FILTERS))
            row_filter = chance.choice([None, *FILTERS[name]])
            scopes.append(
                {"type": "DATASOURCES:READ", "resource": name, **({"filter": row_filter} if row_filter else {})}
            )
        else:
            scopes.append({"type": chance.choice(["READ:ALL", "METRICS:READ", "TENANTS:MANAGE", "DEPLOY"])})
    return scopes


def changed(chance: random.Random, scopes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Scopes like these, some of them left out, added or restricted in another way."""
    kept = [dict(s) for s in scopes if chance.random() < 0.8]
    for scope in kept:
        if chance.random() < 0.2:
            scope.pop(chance.choice(["filter", "fixed_params"]), None)
    if chance.random() < 0.3:
        kept += random_scopes(chance)[:1]
    if "READ:ALL" in {s["type"] for s in scopes} and chance.random() < 0.5:
        kept = [
            s for s in random_scopes(chance) if "READ" in s["type"] and s["type"] not in ("READ:ALL", "METRICS:READ")
        ]
    return kept or scopes[:1]


def visible(server: Server, token: str) -> set[tuple[Any, ...]]:
    """Everything that a token can read: rows of endpoints and datasources, and control routes."""
    readable: set[tuple[Any, ...]] = {("route", p) for p in CONTROL if server.get(p, token).status_code == 200}
    calls = [("by_kind", {"kind": k} if k else {}) for k in KINDS] + [("raw", {})]
    for pipe, params in calls:
        response = server.get(f"/v0/pipes/{pipe}.json", token, params=params)
        if response.status_code == 200:
            readable |= {(pipe, *sorted(map(str, r.items()))) for r in response.json()["data"]}
    for name in FILTERS:
        response = server.post("/v0/sql", token, content=f"SELECT * FROM {name}")
        if response.status_code == 200:
            readable |= {(name, *sorted(map(str, r.items()))) for r in response.json()["data"]}
    return readable


@pytest.mark.soak
# The first one finds a token without a filter of its minter, and one without its fixed parameters.
@pytest.mark.parametrize("seed", sampled((7, *range(7)), 8))
def test_minted_tokens_see_a_subset(mints: Server, seed: int) -> None:
    chance = random.Random(seed)
    minted = seen = 0
    for number in range(soak_rounds(5)):
        name = f"random {seed} {number}"
        token, scopes, tenant = random_minter(mints, chance, name)
        # A minter without a tenant may bind tokens to any tenant.
        bound = [scopes_of(mints, name, scopes, t) for t in ([tenant] if tenant else [None, "1", "2"])]
        own = visible(mints, token).union(*(visible(mints, t) for t in bound if t))
        for _ in range(4):
            expected = changed(chance, scopes)
            response = mint(mints, token, expected, chance.choice([tenant, tenant, None, "1", "2"]), ttl=None)
            if response.status_code == 200:
                minted += 1
                rows = visible(mints, response.json()["token"])
                seen += len(rows)
                assert rows <= own, (scopes, tenant, expected, rows - own)
            else:
                assert response.status_code in (400, 403), response.text
    assert minted
    assert seen


def random_minter(server: Server, chance: random.Random, name: str) -> tuple[str, list[dict[str, Any]], str | None]:
    """A minter with random scopes that do not contradict one another, its other scopes and its tenant."""
    while True:
        scopes, tenant = random_scopes(chance), chance.choice([None, "1", "2"])
        body = {"name": name, "scopes": [{"type": MINT}, *scopes], "tenant": tenant}
        created = server.admin("POST", "/v0/tokens", json=body)
        if created.status_code == 200:
            return created.json()["token"], scopes, tenant


def scopes_of(server: Server, name: str, scopes: list[dict[str, Any]], tenant: str | None) -> str | None:
    """A token with the scopes to read of a minter, bound to a tenant."""
    readable = [s for s in scopes if s["type"] in ("PIPES:READ", "DATASOURCES:READ")]
    body = {"name": f"{name} as {tenant}", "scopes": readable, "tenant": tenant}
    response = server.admin("POST", "/v0/tokens", json=body)
    return response.json()["token"] if response.status_code == 200 else None
