"""`/v0/sql`: one SELECT over what the token names, and nothing else."""

from __future__ import annotations

import csv
import io
import json

import pyarrow.parquet as pq
import pytest

from tests.support.server import Server
from tests.web.responses import data, refused


@pytest.fixture(scope="module")
def token(server: Server) -> str:
    return server.mint("DATASOURCES:READ:events", "DATASOURCES:READ:prices", "PIPES:READ:by_kind", tenant="1")


@pytest.mark.proves("A1")
def test_every_way_to_send_sql(server: Server, token: str) -> None:
    sql = "SELECT note FROM events WHERE note = 'one-a'"
    form = {"content-type": "application/x-www-form-urlencoded"}
    for answer in (
        server.get("/v0/sql", token, params={"q": sql}),
        server.get("/v0/sql", params={"q": sql, "token": token}),
        server.post("/v0/sql", token, content=sql),
        server.post("/v0/sql", token, content=f"\n {sql} ;\n"),
        server.post("/v0/sql", token, content=sql, headers=form),
        server.post("/v0/sql", token, data={"q": sql}),
        server.post("/v0/sql", token, data={"first": "x", "q": sql}),
        server.post("/v0/sql", token, json={"q": sql}),
        server.post("/v0/sql", token, params={"q": sql}),
    ):
        assert data(answer) == [{"note": "one-a"}]


@pytest.mark.parametrize("body", ["", " \n", "q=", "q=%20", "{}", '{"q": 1}', '{"q": null}'])
def test_a_request_without_sql_is_refused(server: Server, token: str, body: str) -> None:
    refused(server.post("/v0/sql", token, content=body), 400, "RK4009")
    refused(server.get("/v0/sql", token), 400, "RK4009")


def test_ambiguous_requests_are_refused(server: Server, token: str) -> None:
    refused(server.get("/v0/sql?q=SELECT+1&q=SELECT+2", token), 400, "RK4009")
    refused(server.post("/v0/sql", token, content="q=SELECT+1&q=SELECT+2"), 400, "RK4009")
    refused(server.post("/v0/sql", token, content=b"SELECT '\xff\xfe'"), 400, "RK4009")


def test_formats(server: Server, token: str) -> None:
    sql = "SELECT kind, units FROM events WHERE kind = 'sale'"

    def ask(clause: str) -> bytes:
        response = server.post("/v0/sql", token, content=sql + clause)
        assert response.status_code == 200, response.text
        return response.content

    for clause in ("", " FORMAT JSON", "\nformat json;", " FORMAT  JSON ; "):
        assert json.loads(ask(clause))["data"] == [{"kind": "sale", "units": 40}]
    named = ask(" FORMAT CSVWithNames").decode()
    assert list(csv.DictReader(io.StringIO(named))) == [{"kind": "sale", "units": "40"}]
    assert list(csv.reader(io.StringIO(ask(" FORMAT CSV").decode()))) == [["sale", "40"]]
    assert json.loads(ask(" FORMAT JSONEachRow")) == {"kind": "sale", "units": 40}
    assert pq.read_table(io.BytesIO(ask(" FORMAT Parquet"))).to_pylist() == [{"kind": "sale", "units": 40}]
    for clause in (" FORMAT Null", " FORMAT Native", " FORMAT TSV", " FORMAT Template", " FORMAT x.y"):
        assert server.post("/v0/sql", token, content=sql + clause).status_code == 400
    assert data(server.post("/v0/sql", token, content="SELECT ' FORMAT CSV' AS text")) == [{"text": " FORMAT CSV"}]


def test_pipes_with_parameters(server: Server, token: str) -> None:
    sql = "SELECT sum(units) AS n FROM by_kind"
    assert server.sql(sql, token) == [{"n": 43}]
    assert server.sql(sql, token, kind="sale") == [{"n": 40}]
    assert server.sql("SELECT b.units AS n FROM by_kind AS b JOIN events AS e ON e.kind = b.kind LIMIT 1", token)
    refused(server.post("/v0/sql", token, content=sql, params={"from_day": "x"}), 400, "RK4006")


def test_required_parameters_of_other_pipes_do_not_matter(server: Server) -> None:
    """A workspace with a required parameter somewhere does not refuse its admin a plain query."""
    assert server.sql("SELECT 1 AS x") == [{"x": 1}]
    assert server.sql("SELECT n FROM declared", must="x") == [{"n": 7}]
    refused(server.admin("GET", "/v0/sql?q=SELECT+n+FROM+declared"), 400, "RK4007")


REFUSED = [
    "SELECT 1; SELECT 2",
    "SELECT 1; DROP TABLE events",
    "SELECT 1 SETTINGS max_threads = 1",
    "SELECT * FROM (SELECT 1 SETTINGS readonly = 0)",
    "SELECT 1 SETTINGS max_threads = 1 FORMAT JSON",
    "SELECT 1 FORMAT JSON SETTINGS max_threads = 1",
    "SELECT 1 INTO OUTFILE '/tmp/x'",
    "SELECT 1 INTO OUTFILE '/tmp/x' FORMAT CSV",
    "INSERT INTO events (tenant_id) VALUES (1)",
    "INSERT INTO events SELECT * FROM events",
    "CREATE TABLE x (a Int8) ENGINE = Memory",
    "DROP TABLE events",
    "ALTER TABLE events DELETE WHERE 1",
    "TRUNCATE TABLE events",
    "RENAME TABLE events TO x",
    "OPTIMIZE TABLE events FINAL",
    "SYSTEM FLUSH LOGS",
    "SET max_threads = 1",
    "USE system",
    "GRANT ALL ON *.* TO x",
    "KILL QUERY WHERE 1",
    "ATTACH TABLE x",
    "SHOW TABLES",
    "SHOW CREATE TABLE events",
    "DESCRIBE TABLE events",
    "EXPLAIN SELECT * FROM events",
    "EXPLAIN AST SELECT 1",
    "EXISTS TABLE events",
    "CHECK TABLE events",
    "SELECT * FROM system.tables",
    "SELECT * FROM system.one",
    "SELECT * FROM `system`.`tables`",
    "SELECT * FROM system.query_log",
    "SELECT * FROM INFORMATION_SCHEMA.TABLES",
    "SELECT * FROM information_schema.columns",
    "SELECT * FROM main.events",
    "SELECT * FROM main.notes",
    "SELECT * FROM main_scratch.events",
    "SELECT * FROM main_stage.x",
    "SELECT * FROM file('/etc/passwd')",
    "SELECT * FROM url('http://127.0.0.1/')",
    "SELECT * FROM remote('127.0.0.1', system.one)",
    "SELECT * FROM s3('http://127.0.0.1/x')",
    "SELECT * FROM merge('main', '.*')",
    "SELECT * FROM cluster('default', system.one)",
    "SELECT * FROM python('x')",
    "SELECT * FROM view(SELECT 1)",
    "SELECT * FROM viewExplain('EXPLAIN', '', (SELECT 1))",
    "SELECT * FROM input('a Int8')",
    "SELECT * FROM executable('x', 'CSV', 'a Int8')",
    "SELECT currentDatabase()",
    "SELECT currentUser()",
    "SELECT getSetting('max_threads')",
    "SELECT hostName()",
    "SELECT version()",
    "SELECT file('/etc/passwd')",
    "SELECT sleep(1)",
    "SELECT dictGet('d', 'a', 1)",
    "SELECT joinGet('j', 'a', 1)",
    "SELECT hasColumnInTable('main', 'payroll', 'x')",
    "SELECT * FROM notes",
    "SELECT * FROM payroll",
    "SELECT * FROM nonesuch",
    "SELECT * FROM raw",
    "SELECT 1 WHERE 'x' IN payroll",
    "SELECT * FROM events WHERE note IN (SELECT text FROM notes)",
    "SELECT * FROM events AS e JOIN notes AS n ON 1",
    "SELECT _rk_t.note FROM events",
    "SELECT _block_number FROM events",
    "SELECT _part FROM events",
    "SELECT _table, _database FROM events",
    "SELECT {p:String}",
    "SELECT * FROM {t:Identifier}",
    "SELECT",
    "(",
    "not sql",
    "\x00",
    "SELECT '",
    "/* SELECT 1",
    "SELECT " + "(" * 2000 + "1" + ")" * 2000,
    "SELECT " + "-" * 3000 + "1",
    "SELECT [" + "1," * 200_000 + "1]",
]


@pytest.mark.proves("A2", "B3", "B12", "D12")
@pytest.mark.parametrize("sql", REFUSED, ids=lambda s: s[:40])
def test_invalid_statements_are_refused(server: Server, token: str, sql: str) -> None:
    before = server.sql("SELECT count() AS n FROM events")
    answer = server.post("/v0/sql", token, content=sql)
    assert answer.status_code in (400, 403), answer.text[:300]
    body = answer.json()
    assert set(body) >= {"error", "code", "documentation"}
    shown = answer.text.replace(json.dumps(sql)[1:-1], "")
    assert not [s for s in ("DB::Exception", "Traceback", "In scope") if s in shown], body
    names = {"notes", "payroll", "daily", "two-", "three-", "salary", "employee", "clicks"}
    assert not [n for n in names if n in shown and n not in sql], body
    assert server.sql("SELECT count() AS n FROM events") == before


@pytest.mark.proves("B3", "B12")
def test_a_name_out_of_scope_looks_nonexistent(server: Server, token: str) -> None:
    answers = {}
    for name in ("payroll", "nonesuch", "notes", "raw", "fill_daily"):
        for sql in (f"SELECT * FROM {name}", f"SELECT 1 IN {name}", f"SELECT count() FROM {name} FINAL"):
            response = server.post("/v0/sql", token, content=sql)
            body = response.json()
            body.pop("request_id", None)
            answers.setdefault(sql.replace(name, "?"), set()).add(
                (response.status_code, json.dumps(body).replace(name, "?"))
            )
    assert all(len(answer) == 1 for answer in answers.values()), answers


@pytest.mark.proves("D11")
def test_each_tenant_reads_only_its_rows(server: Server) -> None:
    for tenant, own in (("1", "one-"), ("2", "two-")):
        token = server.mint("DATASOURCES:READ:events", "DATASOURCES:READ:notes", tenant=tenant)
        rows = server.sql("SELECT note FROM events WHERE tenant_id IN (1, 2, 3) OR 1", token)
        assert rows and all(r["note"].startswith(own) for r in rows)
        joined = server.sql("SELECT count() AS n FROM events AS e JOIN notes AS n ON 1 = 1", token)
        assert joined == [{"n": len(rows)}]


@pytest.mark.proves("B12", "B13")
def test_tokens_without_a_tenant(server: Server) -> None:
    token = server.static("no tenant", "DATASOURCES:READ:prices", "DATASOURCES:READ:events")
    assert len(server.sql("SELECT * FROM prices", token)) == 3
    refused(server.post("/v0/sql", token, content="SELECT * FROM events"), 403, "RK4004")
    refused(server.post("/v0/sql", token, content="SELECT * FROM prices JOIN events USING kind"), 403, "RK4004")
    assert server.post("/v0/sql", token, content="SELECT * FROM payroll").status_code == 403
    append = server.static("appends only", "DATASOURCES:APPEND:events", "DATASOURCES:APPEND:prices")
    for sql in ("SELECT 1", "SELECT * FROM prices", "SELECT * FROM events"):
        refused(server.post("/v0/sql", append, content=sql), 403, "RK4003")


def test_errors_contain_no_values(server: Server, token: str) -> None:
    """An error on a row names neither the value nor whether a foreign row has it."""
    for sql in (
        "SELECT toInt32(note) FROM events",
        "SELECT throwIf(units > 1, 'x') FROM events",
        "SELECT CAST(note AS Enum8('a' = 1)) FROM events",
        "SELECT nonesuch FROM events",
        "SELECT nots FROM events",
    ):
        answer = server.post("/v0/sql", token, content=sql).json()
        del answer["request_id"]  # random digits
        text = json.dumps(answer)
        assert not [
            s for s in ("one-", "two-", "three-", "500", "6000", "DB::", "did you mean", "Maybe") if s in text
        ]
    only_others = "SELECT throwIf(units > 400, 'x') AS x FROM events"
    assert data(server.post("/v0/sql", token, content=only_others)) == [{"x": 0}] * 3


def test_an_admin_sees_everything(server: Server) -> None:
    assert server.sql("SELECT count() AS n FROM payroll") == [{"n": 1}]
    assert server.sql("SELECT uniqExact(tenant_id) AS n FROM events")[0]["n"] >= 3
    for sql in (
        "SELECT * FROM system.tables",
        "DROP TABLE events",
        "SELECT * FROM main.events",
    ):
        assert server.post("/v0/sql", server.admin_token, content=sql).status_code in (400, 403)
    as_tenant = {"x-rookery-tenant": "2"}
    rows = data(server.post("/v0/sql", server.admin_token, content="SELECT note FROM events", headers=as_tenant))
    assert {r["note"][:4] for r in rows} == {"two-"}


def test_text_in_double_quotes_gets_a_hint(server: Server) -> None:
    for token in (server.admin_token, server.mint("DATASOURCES:READ:events", tenant="1")):
        response = server.get("/v0/sql", token, params={"q": 'SELECT units FROM events WHERE kind = "view"'})
        assert "single quotes" in refused(response, 400)["hint"]
        response = server.get("/v0/sql", token, params={"q": "SELECT units FROM events WHERE knd = 'view'"})
        assert "single quotes" not in refused(response, 400).get("hint", "")
