"""Tokens with TOKENS:MINT: what they may mint, show and remove, and that minted tokens see no more than they do."""

from __future__ import annotations

import itertools
import json
import random
import time
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import pytest

from tests.support.server import Server, running
from tests.support.soak import soak_rounds
from tests.web.project import fill
from tests.web.responses import refused

pytestmark = pytest.mark.feature

MINT = "TOKENS:MINT"
EVENTS = "DATASOURCES:READ:events"
RAW = "PIPES:READ:raw"
SALES = {"type": "PIPES:READ", "resource": "by_kind", "fixed_params": {"kind": "sale"}}
VIEWS = {"type": "PIPES:READ", "resource": "by_kind", "fixed_params": {"kind": "view"}}
SALES_OF_A_DAY = {**SALES, "fixed_params": {"kind": "sale", "from_day": "2026-01-02"}}
NUMBER = {"type": "PIPES:READ", "resource": "divided", "fixed_params": {"by": 1}}
TRUTH = {"type": "PIPES:READ", "resource": "divided", "fixed_params": {"by": True}}
TEXT = {"type": "PIPES:READ", "resource": "divided", "fixed_params": {"by": "1"}}
Scopes = Sequence[str | dict[str, Any]]


@pytest.fixture(scope="module")
def mints(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("minting")) as server:
        fill(server)
        yield server


numbers = itertools.count()


def minter(server: Server, scopes: Scopes, tenant: str | None = None) -> str:
    return server.static(f"minter {next(numbers)}", MINT, *scopes, tenant=tenant)


def mint(
    server: Server, token: str, scopes: Scopes, tenant: str | None = None, *, ttl: int | None = 600
) -> httpx.Response:
    """A JWT, or without `ttl` a static token, that a minter asks for."""
    body = {"name": f"minted {next(numbers)}", "scopes": list(scopes), "tenant": tenant, "ttl": ttl}
    return server.post("/v0/tokens", token, json=body)


# The scopes and the tenant of a minter, and those of a token that it may mint.
NARROWER: list[tuple[Scopes, str | None, Scopes, str | None]] = [
    ([RAW], "1", [RAW], "1"),
    ([RAW], None, [RAW], "1"),
    ([RAW], None, [RAW], None),
    ([RAW, EVENTS], "1", [EVENTS], "1"),
    ([EVENTS], "1", [f"{EVENTS}:units < 9"], "1"),
    ([f"{EVENTS}:units < 9"], "1", [f"{EVENTS}:units < 9"], "1"),
    ([f"{EVENTS}:units < 9"], "1", [f"{EVENTS}:units < 9", f"{EVENTS}:kind = 'view'"], "1"),
    ([RAW, f"{EVENTS}:units < 9"], "1", [RAW, f"{EVENTS}:units < 9"], "1"),
    ([f"{EVENTS}:units < 9", "DATASOURCES:READ:notes"], "1", ["DATASOURCES:READ:notes"], "1"),
    ([f"{EVENTS}:units < 9", "DATASOURCES:APPEND:events"], "1", ["DATASOURCES:APPEND:events"], "1"),
    ([SALES], "1", [SALES], "1"),
    ([SALES], None, [SALES], "2"),
    ([SALES], "1", [SALES_OF_A_DAY], "1"),
    (["PIPES:READ:by_kind"], "1", [SALES], "1"),
    ([NUMBER], None, [NUMBER], None),
    (["READ:ALL"], None, ["READ:ALL"], None),
    (["READ:ALL"], None, [RAW, EVENTS, SALES], "2"),
    (["METRICS:READ"], None, ["METRICS:READ"], None),
    (
        ["PIPES:READ:keyed"],
        None,
        [{"type": "PIPES:READ", "resource": "keyed", "fixed_params": {"customer": 1}}],
        None,
    ),
]
WIDER: list[tuple[Scopes, str | None, Scopes, str | None]] = [
    ([], None, ["ADMIN"], None),
    ([], None, ["DEPLOY"], None),
    ([], None, ["TENANTS:MANAGE"], None),
    ([], None, ["METRICS:READ"], None),
    ([], None, ["READ:ALL"], None),
    ([], None, [RAW], "1"),
    ([RAW], "1", [RAW], "2"),
    ([RAW], "1", [RAW], None),
    ([RAW], "1", [RAW], "4711"),
    ([RAW], "1", [RAW, EVENTS], "1"),
    ([RAW], "1", ["PIPES:READ:by_kind"], "1"),
    ([RAW], "1", ["PIPES:READ:no_such_pipe"], "1"),
    ([RAW], "1", ["DATASOURCES:READ:raw"], "1"),
    ([EVENTS], "1", ["DATASOURCES:APPEND:events"], "1"),
    (["DATASOURCES:APPEND:events"], "1", [EVENTS], "1"),
    (["DATASOURCES:APPEND:events"], "1", ["DATASOURCES:APPEND:events"], None),
    ([f"{EVENTS}:units < 9"], "1", [EVENTS], "1"),
    ([f"{EVENTS}:units < 9"], "1", [f"{EVENTS}:units < 99"], "1"),
    ([f"{EVENTS}:units < 9"], "1", [f"{EVENTS}:units < 9 OR 1 = 1"], "1"),
    ([f"{EVENTS}:units < 9", f"{EVENTS}:kind = 'view'"], "1", [f"{EVENTS}:units < 9"], "1"),
    ([RAW, f"{EVENTS}:units < 9"], "1", [RAW], "1"),
    ([RAW, f"{EVENTS}:units < 9"], "1", [RAW, EVENTS], "1"),
    ([SALES], "1", ["PIPES:READ:by_kind"], "1"),
    ([SALES], "1", [VIEWS], "1"),
    ([SALES_OF_A_DAY], "1", [SALES], "1"),
    ([NUMBER], None, [TRUTH], None),
    ([NUMBER], None, [TEXT], None),
    (["READ:ALL"], None, ["METRICS:READ"], None),
    (["READ:ALL"], None, ["DATASOURCES:APPEND:events"], None),
]


def _ids(cases: list[tuple[Scopes, str | None, Scopes, str | None]]) -> list[str]:
    return [str(i) for i in range(len(cases))]


@pytest.mark.parametrize("ttl", [600, None], ids=["JWT", "static"])
@pytest.mark.parametrize("case", NARROWER, ids=_ids(NARROWER))
def test_narrower_tokens_are_minted(mints: Server, case: Any, ttl: int | None) -> None:
    own, own_tenant, wanted, tenant = case
    response = mint(mints, minter(mints, own, own_tenant), wanted, tenant, ttl=ttl)
    assert response.status_code == 200, response.text
    body = mints.get("/v0/pipes/openapi.json", response.json()["token"])
    assert body.status_code == (403 if wanted == ["METRICS:READ"] else 200)


@pytest.mark.parametrize("case", WIDER, ids=_ids(WIDER))
def test_wider_tokens_are_refused(mints: Server, case: Any) -> None:
    own, own_tenant, wanted, tenant = case
    token = minter(mints, own, own_tenant)
    refused(mint(mints, token, wanted, tenant, ttl=None), 403, "RK4003")
    jwt = mint(mints, token, wanted, tenant)
    assert jwt.status_code in (400, 403), jwt.text
    assert mints.get("/v0/tokens", token).status_code == 200


@pytest.mark.parametrize(
    "scopes",
    [
        [f"{EVENTS}:tenant_id = 1", "DATASOURCES:READ:daily"],
        [f"{EVENTS}:units < 9 AND tenant_id = 1"],
        [{"type": "PIPES:READ", "resource": "keyed", "fixed_params": {"customer": 1}}, EVENTS],
    ],
    ids=["filter", "and", "key"],
)
def test_a_minter_selects_its_tenant_only_by_its_claim(mints: Server, scopes: Scopes) -> None:
    body = {"name": f"minter {next(numbers)}", "scopes": [MINT, *scopes]}
    response = mints.admin("POST", "/v0/tokens", json=body)
    assert refused(response, 400, "RK4018")["hint"]


def error(response: httpx.Response, name: str = "\0") -> str:
    """A refusal without the request's id and without a name in it."""
    body = {k: v for k, v in response.json().items() if k != "request_id"}
    return f"{response.status_code} {json.dumps(body)}".replace(name, "NAME")


def test_a_refusal_does_not_say_what_exists(mints: Server) -> None:
    token = minter(mints, [RAW], "1")
    errors = {error(mint(mints, token, [f"PIPES:READ:{pipe}"], "1"), pipe) for pipe in ("by_kind", "missing")}
    assert len(errors) == 1
    errors = {error(mint(mints, token, [RAW], tenant)) for tenant in ("2", "3", "4711", "x")}
    assert len(errors) == 1
    mints.static("somebody else's", "PIPES:READ:by_kind", tenant="2")
    for method, end in (("GET", ""), ("DELETE", ""), ("POST", "/refresh")):
        errors = {
            error(mints.request(method, f"/v0/tokens/{name}{end}", token), name)
            for name in ("somebody else's", "admin token", "missing")
        }
        assert len(errors) == 1, errors
        assert "RK4017" in errors.pop()
    assert mints.admin("GET", "/v0/tokens/somebody else's").status_code == 200


def test_a_minter_lists_only_tokens_that_it_could_mint(mints: Server) -> None:
    mints.static("raw of 1", RAW, tenant="1")
    mints.static("raw of 2", RAW, tenant="2")
    mints.static("raw and more", RAW, EVENTS, tenant="1")
    token = minter(mints, [RAW], "1")
    listed = mints.get("/v0/tokens", token).json()["tokens"]
    assert "raw of 1" in {t["name"] for t in listed}
    assert all(t["tenant"] == "1" and {s["type"] for s in t["scopes"]} <= {"PIPES:READ", MINT} for t in listed)
    assert not {"raw of 2", "raw and more", "admin token", "ingest"} & {t["name"] for t in listed}


def test_a_minter_refreshes_and_removes_its_tokens(mints: Server) -> None:
    token = minter(mints, [RAW], "1")
    old = mint(mints, token, [RAW], "1", ttl=None).json()
    new = mints.post(f"/v0/tokens/{old['name']}/refresh", token).json()
    refused(mints.get("/v0/pipes/raw.json", old["token"]), 403, "RK4002")
    assert mints.get("/v0/pipes/raw.json", new["token"]).status_code == 200
    assert mints.request("DELETE", f"/v0/tokens/{old['name']}", token).status_code == 200
    refused(mints.get("/v0/pipes/raw.json", new["token"]), 403, "RK4002")


def test_a_name_in_use_is_refused(mints: Server) -> None:
    mints.static("taken", "PIPES:READ:by_kind", tenant="2")
    token = minter(mints, [RAW], "1")
    body = {"name": "taken", "scopes": [RAW], "tenant": "1"}
    text = refused(mints.post("/v0/tokens", token, json=body), 409, "RK4016")
    assert "by_kind" not in str(text)


def test_a_removed_minter_mints_nothing(mints: Server) -> None:
    token = minter(mints, [RAW], "1")
    child = mint(mints, token, [RAW], "1").json()["token"]
    name = next(t["name"] for t in mints.admin_json("GET", "/v0/tokens")["tokens"] if t["token"] == token)
    mints.admin("DELETE", f"/v0/tokens/{name}")
    refused(mint(mints, token, [RAW], "1"), 403, "RK4002")
    refused(mints.get("/v0/tokens", token), 403, "RK4002")
    assert mints.get("/v0/pipes/raw.json", child).status_code == 200, "it is valid until it expires"


def test_a_minter_of_a_removed_tenant_is_refused(mints: Server) -> None:
    mints.tenant("5")
    token = minter(mints, [RAW], "5")
    assert mint(mints, token, [RAW], "5").status_code == 200
    assert mints.admin("DELETE", "/v0/tenants/5").status_code == 204
    refused(mint(mints, token, [RAW], "5"), 403, "RK4002")


@pytest.mark.parametrize("scope", ["ADMIN", "DEPLOY", "TENANTS:MANAGE", "TOKENS:MINT"])
def test_a_jwt_cannot_change_the_workspace(mints: Server, scope: str) -> None:
    import jwt

    body = {"name": "x", "scopes": [scope], "ttl": 60}
    refused(mints.admin("POST", "/v0/tokens", json=body), 400, "RK4018")
    key = mints.admin_json("GET", "/v0/signing-key")["secret"]
    claims = {"workspace_id": "main", "name": "x", "exp": int(time.time()) + 60, "scopes": [{"type": scope}]}
    forged = jwt.encode(claims, key, algorithm="HS256")
    for path in ("/v0/tokens", "/v0/tenants", "/v0/pipes", "/metrics"):
        refused(mints.get(path, forged), 403, "RK4002")


@pytest.mark.parametrize(
    ("scopes", "tenant"),
    [
        (["DEPLOY"], "1"),
        (["TENANTS:MANAGE"], "1"),
        (["METRICS:READ"], "1"),
        (["READ:ALL"], "1"),
        (["READ:ALL", f"{EVENTS}:units < 9"], None),
        (["READ:ALL", SALES], None),
        (["READ:ALL:events"], None),
        (["METRICS:READ:x"], None),
        (["TOKENS:MINT:x"], None),
        ([{"type": "DEPLOY", "fixed_params": {"a": 1}}], None),
        ([{"type": "READ:ALL", "filter": "units < 9"}], None),
        (["read:all"], None),
        (["READ:ALL "], None),
        (["TOKENS:*"], None),
    ],
    ids=str,
)
def test_contradicting_scopes_are_refused(mints: Server, scopes: Scopes, tenant: str | None) -> None:
    for ttl in (None, 60):
        body = {"name": "contradiction", "scopes": scopes, "tenant": tenant, "ttl": ttl}
        refused(mints.admin("POST", "/v0/tokens", json=body), 400, "RK4018")


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
    found: set[tuple[Any, ...]] = {("route", p) for p in CONTROL if server.get(p, token).status_code == 200}
    calls = [("by_kind", {"kind": k} if k else {}) for k in KINDS] + [("raw", {})]
    for pipe, params in calls:
        response = server.get(f"/v0/pipes/{pipe}.json", token, params=params)
        if response.status_code == 200:
            found |= {(pipe, *sorted(map(str, r.items()))) for r in response.json()["data"]}
    for name in FILTERS:
        response = server.post("/v0/sql", token, content=f"SELECT * FROM {name}")
        if response.status_code == 200:
            found |= {(name, *sorted(map(str, r.items()))) for r in response.json()["data"]}
    return found


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(8))
def test_minted_tokens_see_a_subset(mints: Server, seed: int) -> None:
    chance = random.Random(seed)
    minted = seen = 0
    for number in range(soak_rounds(5)):
        name = f"random {seed} {number}"
        token, scopes, tenant = random_minter(mints, chance, name)
        # A minter without a tenant may bind tokens to any tenant.
        bound = [scopes_of(mints, name, scopes, t) for t in ([tenant] if tenant else [None, "1", "2"])]
        own = visible(mints, token).union(*(visible(mints, t) for t in bound if t))
        for _ in range(6):
            wanted = changed(chance, scopes)
            response = mint(mints, token, wanted, chance.choice([tenant, tenant, None, "1", "2"]), ttl=None)
            if response.status_code == 200:
                minted += 1
                rows = visible(mints, response.json()["token"])
                seen += len(rows)
                assert rows <= own, (scopes, tenant, wanted, rows - own)
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


# --- static tokens that expire -------------------------------------------------------------------------------------


def create(server: Server, token: str, name: str, ttl: int | None, *scopes: str) -> httpx.Response:
    """A static token of tenant 1, for a caller."""
    body = {"name": name, "scopes": list(scopes), "tenant": "1", "ttl": ttl, "static": True}
    return server.post("/v0/tokens", token, json=body)


def test_a_static_token_expires(mints: Server) -> None:
    long = create(mints, mints.admin_token, "long lived", 3600, RAW).json()
    assert create(mints, mints.admin_token, "long lived", 60, RAW).json() == long, "it exists"
    refused(create(mints, mints.admin_token, "long lived", None, RAW), 409, "RK4016")
    before = int(time.time())
    created = create(mints, mints.admin_token, "short", 2, RAW).json()
    assert before + 2 <= created["expires"] <= time.time() + 2
    for _ in range(600):
        if mints.get("/v0/pipes/raw.json", created["token"]).status_code != 200:
            break
        time.sleep(0.1)
    assert "expired" in refused(mints.get("/v0/pipes/raw.json", created["token"]), 403, "RK4002")["error"]
    replaced = create(mints, mints.admin_token, "short", None, RAW).json()
    assert replaced["token"] != created["token"]
    assert replaced["expires"] is None
    assert [t["token"] for t in mints.admin_json("GET", "/v0/tokens")["tokens"] if t["name"] == "short"] == [
        replaced["token"]
    ]
    assert mints.get("/v0/pipes/raw.json", replaced["token"]).status_code == 200


def test_a_token_expires_no_later_than_its_minter(mints: Server) -> None:
    minter = create(mints, mints.admin_token, "expiring minter", 3600, MINT, RAW).json()["token"]
    assert create(mints, minter, "earlier", 3000, RAW).status_code == 200
    assert mint(mints, minter, [RAW], "1", ttl=3000).status_code == 200
    for ttl in (7200, None):
        refused(create(mints, minter, "later", ttl, RAW), 403, "RK4003")
    refused(mint(mints, minter, [RAW], "1", ttl=7200), 403, "RK4003")
    # An existing token with the same scopes that is valid for longer is not shown.
    create(mints, mints.admin_token, "long", 7200, RAW)
    refused(create(mints, minter, "long", 60, RAW), 403, "RK4003")
    assert {"earlier", "long"} & {t["name"] for t in mints.get("/v0/tokens", minter).json()["tokens"]} == {"earlier"}
    refused(mints.get("/v0/tokens/long", minter), 404, "RK4017")


def test_an_expired_minter_mints_nothing(mints: Server) -> None:
    created = create(mints, mints.admin_token, "expired minter", 1, MINT, RAW).json()
    while time.time() <= created["expires"]:
        time.sleep(0.1)
    refused(mint(mints, created["token"], [RAW], "1", ttl=1), 403, "RK4002")
    refused(mints.get("/v0/tokens", created["token"]), 403, "RK4002")


@pytest.mark.parametrize("ttl", [0, -1, 10**12, 10**30])
def test_impossible_lifetimes_are_refused(mints: Server, ttl: int) -> None:
    assert create(mints, mints.admin_token, "impossible", ttl, RAW).status_code == 400


def test_expiring_tokens_keep_their_expiry(mints: Server) -> None:
    created = create(mints, mints.admin_token, "kept", 3600, RAW).json()
    assert mints.admin_json("POST", "/v0/tokens/kept/refresh")["expires"] == created["expires"]
    assert mints.admin("DELETE", "/v0/tokens/kept").status_code == 200
    assert mints.admin("GET", "/v0/tokens/kept").status_code == 404
    mints.tenant("6")
    body = {"name": "of 6", "scopes": [RAW], "tenant": "6", "ttl": 60, "static": True}
    token = mints.admin_json("POST", "/v0/tokens", json=body)["token"]
    mints.admin("DELETE", "/v0/tenants/6")
    refused(mints.get("/v0/pipes/raw.json", token), 403, "RK4002")
