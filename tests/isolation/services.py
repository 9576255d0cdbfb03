"""The whole product, in process, over three workspaces that must give a tenant the same answers.

Three workspaces share one engine. `full` holds the rows of all tenants, `acme` and `zed` only those of the tenant of that
name; everything else is the same. A tenant must get the same answers in `full` as in its own workspace.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from engine.control import push, tenants, tokens
from engine.errors import RookeryError
from engine.ingest.gateway import Gateway
from engine.ingest.staging_pool import StagingPool
from engine.query import authorize
from engine.query.executor import Queries
from engine.query.request import QueryRequest
from engine.query.result import QueryResult
from engine.settings import load
from engine.tokens.claims import Claims, Scope
from engine.tokens.jwts import sign
from engine.warehouse.embedded import EmbeddedWarehouse
from engine.warehouse.port import Format, Input, WarehouseOptions
from engine.workspace.snapshot import DeployedFile
from engine.workspace.workspace import Workspace
from tests.isolation.marked_rows import (
    FILES,
    LANDING,
    OWN_WORKSPACE,
    PIPES,
    PLACEMENTS,
    READABLE,
    ROWS,
    rows_of,
    sentinels,
)

ADMIN = Claims("admin token", (Scope("ADMIN"),))
HIDDEN_NAMES = (
    "omega_ds", "omega_pipe", "omega_usage", "omega_column", "_nest_", "_rk_pool", "_rk_t", "_rk_at", "_stage",
    "_scratch", "fill_", "In scope", "Maybe you meant", "DB::Exception", f"{gettempdir()}/",
)  # fmt: skip
"""Names that no tenant knows, and words that only the engine's own texts contain."""


def leaks(seen: tuple[str, Any], tenant: str, sent_text: str = "") -> list[str]:
    """What an outcome reveals of other tenants and hidden names, apart from what the caller sent."""
    text = shown(seen).replace(json.dumps(sent_text)[1:-1], "")
    foreign = [s for other in PLACEMENTS if other != tenant for s in sentinels(other)]
    return [s for s in (*foreign, *HIDDEN_NAMES) if s in text and s not in sent_text]


@dataclass
class Service:
    """One workspace, with its read path and its write path."""

    workspace: Workspace
    queries: Queries
    ingestion: Gateway

    @property
    def name(self) -> str:
        return self.workspace.name

    def append(self, datasource: str, rows: Iterable[Mapping[str, Any]], bound: str | None = None) -> int:
        body = "\n".join(json.dumps(r) for r in rows)
        return self.ingestion.append(datasource, body.encode(), Input.NDJSON, bound).result().rows

    def push(self, files: Mapping[str, str], **options: Any) -> push.PushResult:
        given = {name: DeployedFile(text, f"{name}.yaml") for name, text in files.items()}
        return push.push(self.workspace, given, push.PushOptions(**options))

    def token(self, *scopes: Scope | str, tenant: str | None = None) -> str:
        """A JWT of one hour."""
        jwt = tokens.JwtRequest("a test", tuple(parsed(scopes)), tenant, 3600)
        return str(tokens.mint(self.workspace, ADMIN, jwt)["token"])

    def signed(self, *scopes: Scope | str, tenant: str | None = None) -> str:
        """A JWT that a backend with the key has signed, which is not looked at before it is used."""
        claims = Claims("a backend", tuple(parsed(scopes)), tenant, int(time.time()) + 3600)
        return sign(claims, self.workspace.name, self.workspace.current.keys[0])

    def static(self, name: str, *scopes: Scope | str, tenant: str | None = None) -> str:
        return str(tokens.create(self.workspace, ADMIN, tokens.StaticRequest(name, parsed(scopes), tenant))["token"])

    def sql(
        self, token: str, text: str, format: Format = Format.JSON, given: Mapping[str, Any] | None = None
    ) -> bytes:
        claims = authorize.authenticate(self.workspace, token)
        return read_all(self.queries.sql(QueryRequest(claims, given or {}, format), text))

    def call(
        self, token: str, pipe: str, given: Mapping[str, Any] | None = None, format: Format = Format.JSON
    ) -> bytes:
        claims = authorize.authenticate(self.workspace, token)
        return read_all(self.queries.endpoint(QueryRequest(claims, given or {}, format), pipe))


def parsed(scopes: Iterable[Scope | str]) -> list[Scope]:
    return [s if isinstance(s, Scope) else Scope.parse(s) for s in scopes]


def read_all(answer: QueryResult) -> bytes:
    """All bytes of an answer, which is closed."""
    parts = [answer.head]
    try:
        while not answer.complete and (chunk := answer.next_chunk()) is not None:
            parts.append(chunk)
    finally:
        answer.close()
    return b"".join(parts)


def scopes_of() -> list[str]:
    """Everything that a tenant of these tests may read."""
    return [f"DATASOURCES:READ:{n}" for n in READABLE] + [f"PIPES:READ:{n}" for n in PIPES]


def outcome(run: Callable[[], bytes]) -> tuple[str, Any]:
    """What a caller sees, made comparable: rows as a set, no time; or the error as it is sent."""
    try:
        body = run()
    except RookeryError as exc:
        return "error", (getattr(exc, "status", exc.code.status), exc.as_dict(), dict(exc.headers or {}))
    if not body.startswith(b"{"):
        return "bytes", sorted(body.splitlines())
    document = json.loads(body)
    document["data"] = sorted(json.dumps(r, sort_keys=True) for r in document["data"])
    document["statistics"].pop("elapsed")
    return "answer", document


def shown(seen: tuple[str, Any]) -> str:
    return json.dumps(seen, default=repr, ensure_ascii=False)


@contextmanager
def services(directory: Path) -> Iterator[dict[str, Service]]:
    """The three workspaces over one engine, filled: many parts, some of one tenant, some of several."""
    settings = load(data=directory / "data", workspace="full", readers=4, writers=3, max_seconds=5)
    warehouse = EmbeddedWarehouse(
        settings.data, WarehouseOptions(readers=4, writers=3, database=settings.empty_database)
    )
    opened: dict[str, Service] = {}
    try:
        for name in ("full", *OWN_WORKSPACE):
            # All readers stand in one empty database, whatever the workspace.
            workspace = Workspace(settings.model_copy(update={"workspace": name}), warehouse)
            opened[name] = Service(workspace, Queries(workspace), Gateway(workspace, StagingPool(workspace)))
            _fill(opened[name], PLACEMENTS if name == "full" else (name,))
        yield opened
    finally:
        for service in opened.values():
            service.workspace.analyser.close()
        warehouse.close()


def _fill(service: Service, who: Iterable[str]) -> None:
    service.push(FILES)
    # Half of the tenants exist before the rows, half get them as history.
    for tenant in ("acme", "yeti"):
        tenants.add(service.workspace, [tenant], PLACEMENTS[tenant])
    for landing in LANDING:
        batches = {t: rows_of(t, landing=landing) for t in PLACEMENTS}
        for start in range(0, ROWS, 20):
            mixed = [r for t in PLACEMENTS if t in who for r in batches[t][start : start + 20]]
            if start < 40:
                service.append(landing, mixed)
            else:
                for tenant in PLACEMENTS:
                    if tenant in who:
                        service.append(landing, batches[tenant][start : start + 20])
    for tenant in ("zed", "omega"):
        tenants.add(service.workspace, [tenant], PLACEMENTS[tenant])
    service.append("accounts", [{"tenant": t, "plan": f"{t}-plan"} for t in PLACEMENTS if t in who])
    prices = [{"lc": f"{t}-kind-{k}", "price": k} for t in OWN_WORKSPACE for k in range(3)]
    service.append("prices", prices)
