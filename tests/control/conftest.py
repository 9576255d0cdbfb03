"""One workspace with the billing project, for the tests of control."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from engine.control import tenants
from engine.ingest.batch import AppendResult
from engine.ingest.gateway import Gateway
from engine.ingest.staging_pool import StagingPool
from engine.schema import Name, nest_database
from engine.warehouse.port import Input
from engine.workspace.workspace import Workspace
from tests.cli.billing import EVENTS, FILES
from tests.support.compiling import pushed, temporary_workspace

DIRECT = {name.rpartition("/")[2].removesuffix(".yaml"): text for name, text in FILES.items()}
ROUTED = {
    "clicks": EVENTS.replace("tenant: tenant_id", "tenant: {column: tenant_id, fanout: routed}"),
    "clicked": DIRECT["usage_daily"],
    "clicks_pipe": DIRECT["usage_pipe"]
    .replace("usage_sums", "clicks_sums")
    .replace("FROM events", "FROM clicks")
    .replace("usage_daily", "clicked"),
}
OWN = ("1", "2", "3")
"""Tenants with tables of their own; tenant 8 is pooled."""


@dataclass
class Billing:
    """A workspace with the billing project, and the gateway that stores its rows."""

    workspace: Workspace
    gateway: Gateway

    def send(self, datasource: str, rows: Iterable[Mapping[str, Any]]) -> AppendResult:
        body = "\n".join(json.dumps(r) for r in rows).encode()
        return self.gateway.append(datasource, body, Input.NDJSON).result(30)

    def execute(self, sql: str) -> None:
        self.workspace.warehouse.execute(sql)

    def row(self, sql: str) -> tuple[Any, ...]:
        return self.workspace.warehouse.query(sql).rows[0]

    def nest(self, tenant: str, table: str) -> Name:
        return Name(nest_database(self.workspace.name, tenant), table)

    def assert_exact(self, landing: str, target: str, without: Iterable[str] = ()) -> None:
        """Copies and targets in nests hold what landing says."""
        source = Name(self.workspace.name, landing).sql()
        for tenant in set(OWN) - set(without):
            mine = f"WHERE tenant_id = {tenant}"
            facts = "count(), sum(units), groupBitXor(units)"
            copy = self.nest(tenant, landing).sql()
            assert self.row(f"SELECT {facts} FROM {copy}") == self.row(f"SELECT {facts} FROM {source} {mine}")
            sums = self.row(f"SELECT sum(events), sum(units) FROM {self.nest(tenant, target).sql()}")
            assert sums == self.row(f"SELECT count(), sum(units) FROM {source} {mine}"), f"target of tenant {tenant}"


@pytest.fixture(scope="module")
def billing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Billing]:
    with temporary_workspace(tmp_path_factory.mktemp("control")) as workspace:
        pushed(workspace, {**DIRECT, **ROUTED})
        gateway = Gateway(workspace, StagingPool(workspace))
        billing = Billing(workspace, gateway)
        tenants.add(workspace, OWN, "tables")
        tenants.add(workspace, ["8"], "pooled")
        for name in ("events", "clicks"):
            outcome = billing.send(name, rows(1))
            if outcome.visible is not None:
                assert outcome.visible.result(30)
        yield billing
        gateway.close()


def rows(units: int) -> list[dict[str, Any]]:
    """A row for every tenant, one of them unknown."""
    return [{"tenant_id": int(t), "event": "a", "units": units} for t in (*OWN, "8", "9")]
