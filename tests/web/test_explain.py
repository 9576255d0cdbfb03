"""`GET|POST /v0/pipes/NAME/explain`: who may ask, what the answer describes, and its advice."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.server import Server, running
from tests.web.responses import refused

pytestmark = pytest.mark.feature

FILES = {
    "datasources/events.yaml": """
tenant: tenant
columns:
  - {name: tenant, type: UInt32}
  - {name: day, type: Date}
  - {name: kind, type: String}
  - {name: secret_column, type: String, default: "''"}
engine: {sorting_key: [tenant, day], settings: {index_granularity: 64}}
""",
    "datasources/coarse.yaml": """
tenant: tenant
columns: [{name: tenant, type: UInt32}, {name: n, type: UInt64}]
engine: {sorting_key: [tenant, n], settings: {index_granularity: 64}}
""",
    "pipes/fill.yaml": """
sql: SELECT tenant, day, count() AS n FROM events GROUP BY tenant, day
materialize: {target: daily, per_tenant: true}
""",
    "datasources/daily.yaml": """
tenant: {column: tenant, landing: false}
columns: [{name: tenant, type: UInt32}, {name: day, type: Date}, {name: n, type: UInt64}]
engine: {type: SummingMergeTree, sorting_key: [tenant, day], columns: [n]}
""",
    "pipes/since.yaml": """
nodes:
  - name: recent
    sql: SELECT day, kind FROM events WHERE day >= {{ Date(from_day, '2026-01-01') }}
  - name: counted
    sql: SELECT kind, count() AS n FROM recent GROUP BY kind ORDER BY kind
""",
    "pipes/by_kind.yaml": "sql: SELECT count() AS n FROM events AS e WHERE e.kind = {{ String(kind, 'a') }}\n",
    "pipes/by_month.yaml": "sql: SELECT count() AS n FROM events WHERE day % {{ UInt8(by, 2) }} = 0\n",
    "pipes/numbers.yaml": "sql: SELECT sum(n) AS n FROM coarse\n",
    "pipes/days.yaml": "sql: SELECT day, sum(n) AS n FROM daily GROUP BY day ORDER BY day\n",
    "pipes/one.yaml": "sql: SELECT 1 AS one\n",
    "pipes/broken.yaml": "sql: SELECT throwIf(kind = 'a', 'x') AS n FROM events\n",
    "pipes/large.yaml": "sql: SELECT n.number AS n, repeat('x', 100) AS x FROM numbers(50000) AS n\n",
    "pipes/keyed.yaml": """
sql: SELECT count() AS n FROM events WHERE tenant = {{ UInt32(customer) }}
parameters: [{name: customer, type: UInt32, tenant_key: true}]
""",
}
STAGES = ["template", "verify", "compose", "engine", "serialization"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("explain")) as server:
        server.push(FILES)
        server.tenant("1", "tables")
        for tenant in range(2, 10):
            server.tenant(str(tenant))
        days = [f"2026-{m:02}-{d:02}" for m in range(1, 11) for d in range(1, 29)]
        rows = [{"tenant": t, "day": d, "kind": "ab"[i % 2]} for t in range(1, 10) for i, d in enumerate(days)]
        server.events("events", rows)
        server.events("coarse", [{"tenant": 2, "n": n} for n in range(1000)])
        yield server


def explained(server: Server, pipe: str, tenant: str | None = "2", **parameters: str) -> dict[str, Any]:
    headers = {} if tenant is None else {"x-rookery-tenant": tenant}
    explanation: dict[str, Any] = server.admin_json(
        "GET", f"/v0/pipes/{pipe}/explain", params=parameters, headers=headers
    )
    return explanation


def test_only_an_admin_may_ask_and_others_learn_nothing(server: Server) -> None:
    tokens = {
        "tenant": server.mint("PIPES:READ:since", "PIPES:READ:keyed", tenant="2"),
        "rows": server.mint("DATASOURCES:READ:events", tenant="2"),
        "static": server.static("for since", "PIPES:READ:since", tenant="2"),
        "all": server.mint("READ:ALL"),
        "deploy": server.static("ci", "DEPLOY"),
        "append": server.mint("DATASOURCES:APPEND:events"),
    }
    for (who, token), pipe, method in itertools.product(tokens.items(), FILES_READ, ("GET", "POST")):
        answer = server.request(method, f"/v0/pipes/{pipe}/explain", token)
        body = {**refused(answer, 403, "RK4003"), "request_id": ""}
        # The same answer for a pipe that the token may call, one that it may not, and one that does not exist.
        unknown = refused(server.request(method, "/v0/pipes/none/explain", token), 403, "RK4003")
        assert body == {**unknown, "request_id": ""}, (who, pipe)
        assert not any(
            word in answer.text for word in ("secret_column", "main.", "main_nest", "`events`", "rk_tenant")
        )
        assert "server-timing" not in answer.headers
    assert server.request("HEAD", "/v0/pipes/since/explain", tokens["tenant"]).status_code == 403
    refused(server.get("/v0/pipes/since/explain"), 403, "RK4001")
    refused(server.get("/v0/pipes/since/explain", "x.y.z"), 403, "RK4002")


FILES_READ = ("since", "keyed", "broken", "none")


def test_a_tenants_token_cannot_borrow_the_header_of_admins(server: Server) -> None:
    token = server.mint("PIPES:READ:since", tenant="2")
    refused(server.get("/v0/pipes/since/explain", token, headers={"x-rookery-tenant": "3"}), 403, "RK4003")


def test_a_call_is_described(server: Server) -> None:
    explanation = explained(server, "since", from_day="2026-10-01")
    assert "{rk_tenant_uint32:UInt32}" in explanation["sql"]
    assert "2026-10-01" not in explanation["sql"]
    # The message of the second check has a random part that no query may know.
    assert "'rookery: a row of another tenant'" in explanation["sql"]
    assert sorted(explanation["parameters"].values(), key=str) == ["2", "2", "2026-10-01"]
    assert (explanation["pipe"], explanation["tenant"], explanation["runs"]) == ("since", "2", 1)
    (table,) = explanation["tables"]
    assert table["table"] == "main.events"
    assert table["parts"] == table["parts_total"] == 1
    assert 0 < table["granules"] < table["granules_total"]
    (key,) = [i for i in table["indexes"] if i["type"] == "PrimaryKey"]
    assert key["keys"] == ["tenant", "day"]
    assert explanation["read_rows"] >= 28
    assert explanation["read_bytes"] > 0
    assert explanation["result_rows"] == 2
    assert list(explanation["milliseconds"]) == STAGES
    assert explanation["milliseconds"]["template"] > 0
    assert explanation["milliseconds"]["verify"] > 0
    assert explanation["warnings"] == []


def test_the_rows_are_those_of_a_real_call(server: Server) -> None:
    headers = {"x-rookery-tenant": "2"}
    call = server.admin_json("GET", "/v0/pipes/since.json", headers=headers)
    explanation = explained(server, "since")
    assert explanation["result_rows"] == call["rows"]
    assert explanation["read_rows"] == call["statistics"]["rows_read"]


def test_parameters_may_be_in_a_body(server: Server) -> None:
    explanation = server.admin_json("POST", "/v0/pipes/since/explain", json={"from_day": "2026-02-03"})
    assert "2026-02-03" in explanation["parameters"].values()


def test_a_tenant_for_whom_all_granules_are_read_is_named(server: Server) -> None:
    (warning,) = explained(server, "numbers", "2")["warnings"]
    assert warning["datasource"] == "coarse"
    assert "all 16 granules" in warning["problem"]
    assert explained(server, "numbers", "3")["warnings"] == []
    assert explained(server, "numbers", None)["warnings"] == []


def test_conditions_on_columns_without_an_index_are_named(server: Server) -> None:
    (warning,) = explained(server, "by_kind")["warnings"]
    assert "`kind`, which is not in the primary key" in warning["problem"]
    (warning,) = explained(server, "by_month")["warnings"]
    assert "`day` does not use the primary key" in warning["problem"]


def test_the_tables_of_a_tenant_are_explained(server: Server) -> None:
    assert [t["table"] for t in explained(server, "days", "1")["tables"]] == ["main_nest_1.daily"]
    assert [t["table"] for t in explained(server, "days", "2")["tables"]] == ["main.daily"]
    everywhere = explained(server, "days", None)
    assert sorted(t["table"] for t in everywhere["tables"]) == ["main.daily", "main_nest_1.daily"]
    assert everywhere["tenant"] is None


def test_pipes_without_tables_and_large_results(server: Server) -> None:
    assert explained(server, "one")["tables"] == []
    explanation = explained(server, "large", None)
    assert explanation["result_rows"] == 50_000
    assert explanation["result_bytes"] > 5_000_000
    assert 0 < explained(server, "one")["memory_bytes"] < explanation["memory_bytes"] < 100_000_000


@pytest.mark.parametrize(
    ("path", "tenant", "status", "code"),
    [
        ("none", None, 404, "RK4008"),
        ("fill", None, 404, "RK4008"),
        ("since?from_day=x", None, 400, "RK4006"),
        ("since?q=1", None, 400, "RK4009"),
        ("since", "4711", 404, "RK3004"),
        ("broken", "2", 400, "RK6004"),
    ],
    ids=["none", "fill", "type", "q", "tenant", "broken"],
)
def test_mistakes_are_the_errors_of_a_call(
    server: Server, path: str, tenant: str | None, status: int, code: str
) -> None:
    pipe, _, query = path.partition("?")
    headers = {} if tenant is None else {"x-rookery-tenant": tenant}
    body = refused(server.admin("GET", f"/v0/pipes/{pipe}/explain?{query}", headers=headers), status)
    call = refused(server.admin("GET", f"/v0/pipes/{pipe}.json?{query}", headers=headers), status)
    assert (body["code"], body["error"]) == (call["code"], call["error"])
    assert body["code"] == code
