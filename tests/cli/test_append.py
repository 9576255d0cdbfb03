"""`append`: NDJSON, CSV and Parquet, from files and standard input, and what happens when a later batch fails."""

from __future__ import annotations

import bz2
import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.cli.billing import EVENTS
from tests.cli.commands import Cli, for_server
from tests.support.server import Server, running

ROWS = [{"tenant_id": n % 3 + 1, "event": 'a b,"c"\né', "units": n} for n in range(100)]
WIDE = 40_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("append")) as found:
        yield found


@pytest.fixture
def cli(server: Server, tmp_path: Path, forked: Path) -> Cli:
    """With a datasource of the test's own, `events`."""
    found = for_server(server, tmp_path, forked)
    if "events" in {d["name"] for d in server.done("GET", "/v0/datasources")["datasources"]}:
        found("datasource", "rm", "events", "--force")
    found.write({"datasources/events.yaml": EVENTS})
    found("push")
    return found


def stored(server: Server) -> list[dict[str, object]]:
    return server.sql("SELECT tenant_id, event, units FROM events ORDER BY units")


def ndjson(rows: list[dict[str, object]]) -> str:
    return "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows)


def as_csv(rows: list[dict[str, object]], header: str = "tenant_id,event,units") -> str:
    lines = [f'{r["tenant_id"]},"{str(r["event"]).replace(chr(34), chr(34) * 2)}",{r["units"]}' for r in rows]
    return "\n".join([header, *lines, ""])


@pytest.mark.parametrize("how", ["ndjson", "jsonl.gz", "csv", "csv.bz2", "parquet"])
def test_files_by_their_ending(cli: Cli, server: Server, how: str) -> None:
    file = cli.directory / f"rows.{how}"
    if how == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), file)
    else:
        text = (as_csv(ROWS) if "csv" in how else ndjson(ROWS)).encode()
        file.write_bytes(
            gzip.compress(text) if how.endswith("gz") else bz2.compress(text) if how.endswith("bz2") else text
        )
    assert cli("append", "events", file.name, "--json").json == {"datasource": "events", "rows": 100}
    assert stored(server) == ROWS


@pytest.mark.parametrize("kind", ["ndjson", "csv", "parquet"])
def test_standard_input(cli: Cli, server: Server, kind: str) -> None:
    body = {"ndjson": ndjson(ROWS).encode(), "csv": as_csv(ROWS).encode()}.get(kind, b"")
    if kind == "parquet":
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(ROWS), sink)
        body = sink.getvalue().to_pybytes()
    flags = [] if kind == "ndjson" else ["--format", kind]
    assert "100 rows" in cli("append", "events", "-", *flags, input=body).err
    assert stored(server) == ROWS


def test_columns_of_a_csv_can_be_renamed(cli: Cli, server: Server) -> None:
    (cli.directory / "theirs.csv").write_text(as_csv(ROWS, "customer,what,units"))
    cli("append", "events", "theirs.csv", "--rename", "customer=tenant_id", "--rename", "what=event")
    assert stored(server) == ROWS
    assert "RK7002" in cli("append", "events", "theirs.csv", "--rename", "customer", code=1).err


@pytest.mark.parametrize("kind", ["ndjson", "csv", "parquet"])
def test_a_failure_in_a_later_batch_says_how_to_go_on_and_going_on_is_exact(
    cli: Cli, server: Server, kind: str
) -> None:
    """Batches are about 16 MiB (200,000 rows of Parquet), so that the file needs several."""
    filler = "x" * 1000
    many = 450_000 if kind == "parquet" else WIDE
    bad = many - 5
    rows = [{"tenant_id": 1, "event": "a" if kind == "parquet" else filler, "units": n} for n in range(many)]
    file = cli.directory / f"rows.{kind}"

    def write(value: object) -> None:
        rows[bad]["tenant_id"] = value
        if kind == "parquet":
            table = pa.Table.from_pylist(rows)
            pq.write_table(table, file)
        else:
            file.write_text(as_csv(rows) if kind == "csv" else ndjson(rows))

    write(-7)
    text = cli("append", "events", file.name, code=1).err
    there = server.sql("SELECT count() AS n, uniqExact(units) AS u FROM events")[0]
    assert there["n"] == there["u"]
    assert 0 < there["n"] < many
    assert f"--skip-rows {there['n']}" in text
    assert f"{there['n']:,} rows are stored" in text
    assert "RK5002" in text
    write(2)
    cli("append", "events", file.name, "--skip-rows", there["n"])
    facts = "SELECT count() AS n, uniqExact(units) AS u, max(units) AS m, countIf(tenant_id = 2) AS two FROM events"
    assert server.sql(facts) == [{"n": many, "u": many, "m": many - 1, "two": 1}]


def test_what_is_wrong_is_told_plainly(cli: Cli, server: Server) -> None:
    (cli.directory / "rows.txt").write_text("x")
    (cli.directory / "rows.parquet").write_text("no parquet")
    (cli.directory / "rows.ndjson").write_text('{"tenant_id": 1, "event": "a"}\n{"tenant_id": \n')
    (cli.directory / "latin.csv").write_bytes("tenant_id,événement\n".encode("latin-1"))
    (cli.directory / "broken.csv.gz").write_bytes(b"no gzip")
    (cli.directory / "rows.ndjson.bz2").write_bytes(b"no bzip2")
    for file, code, status in (
        ("none.ndjson", "RK1008", 1),
        ("rows.txt", "RK7002", 1),
        ("rows.parquet", "RK5001", 1),
        ("rows.ndjson", "RK5001", 1),
        ("latin.csv", "RK5007", 1),
        ("broken.csv.gz", "RK5007", 1),
        ("rows.ndjson.bz2", "RK5007", 1),
    ):
        assert code in cli("append", "events", file, code=status).err, file
    assert "line 2" in cli("append", "events", "rows.ndjson", code=1).err
    assert "RK5005" in cli("append", "nothing", "-", code=7, input="{}\n").err
    assert "RK7002" in cli("append", "events", "-", "--format", "xml", code=1).err
    assert stored(server) == []
    assert cli("append", "events", "-", "--json", input="").json["rows"] == 0
