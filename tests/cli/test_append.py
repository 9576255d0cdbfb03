"""`append`: NDJSON, CSV and Parquet, from files and standard input, with bad rows."""

from __future__ import annotations

import bz2
import gzip
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.cli.billing import EVENTS
from tests.cli.commands import Cli, for_server
from tests.support.server import Server, running

ROWS = [{"tenant_id": n % 3 + 1, "event": 'a b,"c"\né', "units": n} for n in range(100)]
WIDE = 14_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("append")) as server:
        yield server


@pytest.fixture
def cli(server: Server, tmp_path: Path) -> Cli:
    """With a datasource of the test's own, `events`."""
    server.push({}, prune=True, allow=["events"])
    server.push({"datasources/events.yaml": EVENTS})
    return for_server(server, tmp_path)


def stored(server: Server) -> list[dict[str, object]]:
    return server.sql("SELECT tenant_id, event, units FROM events ORDER BY units")


def ndjson(rows: list[dict[str, object]]) -> str:
    return "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows)


def as_csv(rows: list[dict[str, object]], header: str = "tenant_id,event,units") -> str:
    lines = [f'{r["tenant_id"]},"{str(r["event"]).replace(chr(34), chr(34) * 2)}",{r["units"]}' for r in rows]
    return "\n".join([header, *lines, ""])


def expected_response(rows: int, **more: object) -> dict[str, object]:
    return {"datasource": "events", "rows": rows, "quarantined": 0, "ignored_columns": [], "repeated": False} | more


@pytest.mark.parametrize("how", ["ndjson", "jsonl.gz", "csv", "csv.bz2", "parquet"])
def test_the_file_extension_selects_the_format(cli: Cli, server: Server, how: str) -> None:
    file = cli.directory / f"rows.{how}"
    if how == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), file)
    else:
        text = (as_csv(ROWS) if "csv" in how else ndjson(ROWS)).encode()
        file.write_bytes(
            gzip.compress(text) if how.endswith("gz") else bz2.compress(text) if how.endswith("bz2") else text
        )
    assert cli("append", "events", file.name, "--json").json == expected_response(100)
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
    assert "RK7002" in cli("append", "events", "theirs.csv", "--rename", "customer", code=2).err
    misspelt = cli("append", "events", "theirs.csv", "--rename", "costumer=tenant_id", code=2).err
    assert "there is no column `costumer`" in misspelt and "customer, what, units" in misspelt
    (cli.directory / "rows.ndjson").write_text(ndjson(ROWS))
    assert "--rename is for CSV" in cli("append", "events", "rows.ndjson", "--rename", "a=b", code=2).err
    assert stored(server) == ROWS


def test_unknown_columns_are_reported(cli: Cli) -> None:
    (cli.directory / "more.csv").write_text("tenant_id,colour,units,size\n1,red,5,XL\n")
    output = cli("append", "events", "more.csv").err
    assert "1 row appended" in output and "does not have: colour, size" in output
    assert cli("append", "events", "more.csv", "--json").json == expected_response(
        1, ignored_columns=["colour", "size"]
    )


def test_a_file_without_stored_rows_is_a_failure(cli: Cli) -> None:
    (cli.directory / "bad.csv").write_text("tenant_id,units\nx,1\ny,2\n")
    output = cli("append", "events", "bad.csv", code=1).err
    assert "0 rows appended" in output and "2 rows went to quarantine" in output


def test_a_repeated_file_under_its_key_is_reported_as_repeated(cli: Cli) -> None:
    (cli.directory / "rows.csv").write_text(as_csv(ROWS))
    assert cli("append", "events", "rows.csv", "--key", "once").err.count("100 rows appended to events\n")
    assert "nothing is appended now" in cli("append", "events", "rows.csv", "--key", "once").err


def written(file: Path, rows: list[dict[str, object]]) -> None:
    if file.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    else:
        file.write_text(as_csv(rows) if file.suffix == ".csv" else ndjson(rows))


def large(kind: str) -> list[dict[str, object]]:
    """Rows of which the server makes several batches: they are about 14 MB."""
    many, word = (150_000, "a") if kind == "parquet" else (WIDE, "x" * 1000)
    return [{"tenant_id": 1, "event": word, "units": n} for n in range(many)]


FACTS = "SELECT count() AS n, uniqExact(units) AS u, max(units) AS m, countIf(tenant_id = 2) AS two FROM events"


@pytest.mark.parametrize("kind", ["ndjson", "csv", "parquet"])
def test_a_bad_row_in_a_later_batch_is_quarantined_and_all_others_are_stored(
    cli: Cli, server: Server, kind: str
) -> None:
    rows = large(kind)
    many = len(rows)
    file = cli.directory / f"rows.{kind}"
    rows[many - 5]["tenant_id"] = -7
    written(file, rows)
    talk = cli("append", "events", file.name).err
    assert f"{many - 1:,} rows appended to events" in talk
    assert "1 row went to quarantine" in talk and "rookery quarantine ls events" in talk
    assert server.sql(FACTS) == [{"n": many - 1, "u": many - 1, "m": many - 1, "two": 0}]
    kept = cli("quarantine", "ls", "events", "--json").json
    assert kept["total"] == 1 and kept["rows"][0]["tenant_id"] == "-7"
    mended = json.dumps({"tenant_id": 2, "event": "a", "units": many - 5})
    (cli.directory / "mended.ndjson").write_text(json.dumps({"id": kept["rows"][0]["c__id"], "text": mended}))
    cli("quarantine", "replay", "events", "--corrected", "mended.ndjson")
    assert server.sql(FACTS) == [{"n": many, "u": many, "m": many - 1, "two": 1}]
    assert cli("quarantine", "ls", "events", "--json").json["total"] == 0


@pytest.mark.parametrize("kind", ["ndjson", "parquet", pytest.param("csv", marks=pytest.mark.soak_only)])
def test_a_file_that_failed_in_a_later_batch_can_be_resent_under_its_key(cli: Cli, server: Server, kind: str) -> None:
    rows = large(kind)
    many = len(rows)
    file = cli.directory / f"rows.{kind}"
    server.tenant("1", "pooled")
    token = server.static(f"appends {kind}", "DATASOURCES:APPEND:events", tenant="1")
    rows[many - 5]["tenant_id"] = 2
    written(file, rows)
    send = ("append", "events", file.name, "--key", f"a {kind} file", "--token", token)
    assert "RK5003" in cli(*send, code=5).err
    facts = server.sql(FACTS)[0]
    assert facts["n"] == facts["u"] and facts["two"] == 0
    assert facts["n"] < many
    rows[many - 5]["tenant_id"] = 1
    written(file, rows)
    for repeated in (False, True):
        assert cli(*send, "--json").json == expected_response(many, repeated=repeated)
        assert server.sql(FACTS) == [{"n": many, "u": many, "m": many - 1, "two": 0}]
    server.admin_json("DELETE", f"/v0/tokens/appends%20{kind}")


@pytest.mark.parametrize("kind", ["ndjson", "csv", "parquet"])
def test_leading_rows_can_be_skipped(cli: Cli, server: Server, kind: str) -> None:
    file = cli.directory / f"rows.{kind}"
    written(file, ROWS)
    assert cli("append", "events", file.name, "--skip-rows", 97, "--json").json["rows"] == 3
    assert cli("append", "events", file.name, "--skip-rows", 100, "--json").json["rows"] == 0
    assert stored(server) == ROWS[97:]


def test_a_file_with_bad_rows(cli: Cli, server: Server) -> None:
    """The exit code is 0; the counts show the quarantined rows."""
    (cli.directory / "rows.ndjson").write_text(
        '{"tenant_id": 1, "event": "a", "units": 1}\n{"tenant_id": \nno json\n{"event": "b"}\n'
    )
    output = cli("append", "events", "rows.ndjson", "--json").json
    first = {"row": 2, "columns": [], "reason": "the row is truncated"}
    assert output == expected_response(1, quarantined=3, first_bad_row=first)
    assert stored(server) == [{"tenant_id": 1, "event": "a", "units": 1}]
    listed = cli("quarantine", "ls", "events", "--limit", 2)
    assert "tenant_id: " in listed.out and "missing" in listed.out and "no json" in listed.out
    assert "2 of 3 rows" in listed.err
    ids = [r["c__id"] for r in cli("quarantine", "ls", "events", "--json").json["rows"]]
    replayed = cli("quarantine", "replay", "events", *ids[:2], "nonesuch", code=1).err
    assert "1 row back in quarantine" in replayed and "1 row not found in quarantine" in replayed
    assert f"{ids[1]} remains: RK5001" in replayed
    assert cli("quarantine", "rm", "events", ids[1], "--json").json == {"removed": 1}
    assert cli("quarantine", "replay", "events", "--all", "--json", code=1).json["quarantined_rows"] == 1
    assert "2 rows dropped" in cli("quarantine", "rm", "events", "--all").err
    assert "quarantine of events is empty" in cli("quarantine", "ls", "events").err
    for words in (("rm", "events"), ("rm", "events", "x", "--all"), ("replay", "events")):
        assert "RK7002" in cli("quarantine", *words, code=2).err
    assert "RK5005" in cli("quarantine", "ls", "nothing", code=7).err
    assert "RK1008" in cli("quarantine", "replay", "events", "--corrected", "none.ndjson", code=1).err
    (cli.directory / "odd.ndjson").write_text('{"id": "a", "text": "{}"}\n{"id": "b"}\n')
    odd = cli("quarantine", "replay", "events", "--corrected", "odd.ndjson", code=2).err
    assert "RK7002" in odd and "row 2" in odd


def test_listed_rows_can_be_edited_and_replayed(cli: Cli, server: Server) -> None:
    (cli.directory / "rows.ndjson").write_text('{"tenant_id": 1, "units": "x"}\n{"tenant_id": 2, "units": "y"}\n')
    cli("append", "events", "rows.ndjson", code=1)
    listed = cli("quarantine", "ls", "events", "--json").out
    (cli.directory / "list.json").write_text(listed.replace('\\"x\\"', "7").replace('\\"y\\"', "8"))
    assert "2 rows of events stored" in cli("quarantine", "replay", "events", "--corrected", "list.json").err
    assert [r["units"] for r in stored(server)] == [7, 8]


def test_unusable_files_are_errors_with_codes(cli: Cli, server: Server) -> None:
    (cli.directory / "rows.txt").write_text("x")
    (cli.directory / "rows.parquet").write_text("no parquet")
    (cli.directory / "latin.csv").write_bytes("tenant_id,événement\n".encode("latin-1"))
    (cli.directory / "broken.csv.gz").write_bytes(b"no gzip")
    (cli.directory / "rows.ndjson.bz2").write_bytes(b"no bzip2")
    for file, code, status in (
        ("none.ndjson", "RK1008", 1),
        ("rows.txt", "RK7002", 2),
        ("rows.parquet", "RK5001", 1),
        ("latin.csv", "RK5007", 1),
        ("broken.csv.gz", "RK5007", 1),
        ("rows.ndjson.bz2", "RK5007", 1),
    ):
        assert code in cli("append", "events", file, code=status).err, file
    assert "RK5005" in cli("append", "nothing", "-", code=7, input="{}\n").err
    assert "RK7002" in cli("append", "events", "-", "--format", "xml", code=2).err
    assert "RK5001" in cli("append", "events", "/dev/zero", "--format", "csv", code=1).err
    assert stored(server) == []
    assert cli("append", "events", "-", "--json", input="").json["rows"] == 0


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"tenant_id,event\r1,a\r", "LF or CRLF"),
        (b"tenant_id,event\r\r\n1,a\r\r\n", "LF or CRLF"),
        (b"tenant_id;event\n1;a\n", "separated by"),
        (b"tenant_id;event", "separated by"),
        (b'{"tenant_id": 1, "event": "a"}', "format=ndjson"),
    ],
)
def test_a_csv_file_in_another_format_is_an_error(cli: Cli, body: bytes, reason: str) -> None:
    (cli.directory / "other.csv").write_bytes(body)
    output = cli("append", "events", "other.csv", code=1).err
    assert "RK5001" in output and reason in output
    if b"\r" in body:
        assert "RK5001" in cli("append", "events", "other.csv", "--rename", "event=event", code=1).err


def test_a_named_pipe_can_be_appended(cli: Cli, tmp_path: Path) -> None:
    pipe = tmp_path / "rows.csv"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("tenant_id,event\n1,from a pipe\n",))
    writer.start()
    assert "1 row appended" in cli("append", "events", pipe).err
    writer.join()
    assert "is a directory" in cli("append", "events", tmp_path, "--format", "csv", code=1).err
