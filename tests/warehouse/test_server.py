"""Failures of a ClickHouse server: unreachable, refusing, disconnecting, too old."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from engine import errors
from engine.warehouse import embedded as embedded_module
from engine.warehouse.embedded import EmbeddedWarehouse
from engine.warehouse.errors import EngineError
from engine.warehouse.port import Format, Input, Statement
from tests.support.clickhouse_http import READER, STRICT_READER, WRITER, serve
from tests.support.warehouses import EMPTY, Server

own = pytest.mark.skipif(
    "ROOKERY_TEST_CLICKHOUSE_URL" in os.environ, reason="needs the users of the helper that serves the engine"
)
LATE = Statement(
    "SELECT number, throwIf(number = 400000, 'late') FROM numbers(500000)",
    settings={"max_threads": 1, "max_block_size": 1000},
)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1", "https://127.0.0.1:1", "ftp://host", "host:8123", "http://", "http://h:99999", ""]
)
def test_an_unreachable_url_is_an_error(url: str) -> None:
    with pytest.raises(EngineError) as caught:
        Server(url).open()
    assert caught.value.code is errors.UNREACHABLE


def test_a_url_of_another_program_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno")

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(EngineError) as caught:
            Server(f"http://127.0.0.1:{listener.getsockname()[1]}").open()
    assert caught.value.code is errors.UNREACHABLE
    assert "8123" in str(caught.value.hint)


@own
@pytest.mark.parametrize(
    "given", [{"password": "wrong"}, {"user": "nobody"}, {"reader_password": "wrong"}, {"reader_user": "nobody"}]
)
def test_wrong_credentials_are_an_error(server: Server, given: dict[str, str]) -> None:
    with pytest.raises(EngineError) as caught:
        server.open(**given)
    assert caught.value.code is errors.AUTHENTICATION
    assert "secret" not in str(caught.value)


@own
def test_a_reader_that_cannot_set_limits_is_refused_with_a_hint(server: Server) -> None:
    with pytest.raises(EngineError) as caught:
        server.open(reader_user=STRICT_READER[0], reader_password=STRICT_READER[1])
    assert "readonly = 2" in str(caught.value.hint)
    assert "`strict`" in caught.value.message


def test_without_a_reader_user_the_writer_reads_in_read_only_mode(server: Server) -> None:
    warehouse = server.open(reader_user=None, reader_password=None)
    for sql in ("CREATE DATABASE rk_made", "SELECT 1 SETTINGS readonly = 0", "DROP DATABASE system"):
        with pytest.raises(EngineError):
            list(warehouse.stream(Statement(sql), Format.NDJSON))
    assert list(warehouse.stream(Statement("SELECT 1 AS a"), Format.NDJSON)) == [b'{"a":1}\n']
    warehouse.close()


@own
@pytest.mark.proves("D12")
def test_the_reader_cannot_lift_its_limits(server: Server) -> None:
    """A client with the reader's credentials cannot write, even without rookery's adapter."""
    warehouse = server.open(user=WRITER[0], password=WRITER[1])
    writer, warehouse._writer = warehouse._writer, warehouse._reader
    for sql in ("CREATE DATABASE rk_made", f"CREATE TABLE {EMPTY}.t (a UInt8) ENGINE = Memory"):
        with pytest.raises(EngineError) as caught:
            warehouse.execute(sql)
        assert caught.value.engine_code == 164
    warehouse._writer = writer
    warehouse.close()


def test_a_server_that_stops_later_is_an_error(tmp_path: Path) -> None:
    with serve(tmp_path) as url:
        warehouse = Server(url).open()
        assert warehouse.query("SELECT 1").rows == [(1,)]
    calls = (
        lambda: warehouse.query("SELECT 1"),
        lambda: warehouse.execute("CREATE DATABASE x"),
        lambda: warehouse.insert("x.y", b"{}", Input.NDJSON),
        lambda: list(warehouse.stream(Statement("SELECT 1"), Format.JSON)),
        lambda: warehouse.functions(),
        lambda: warehouse.parse("SELECT 1"),
    )
    for call in calls:
        with pytest.raises(EngineError) as caught:
            call()
        assert caught.value.code is errors.UNREACHABLE
    warehouse.close()
    warehouse.close()
    with pytest.raises(EngineError) as caught:
        warehouse.query("SELECT 1")
    assert caught.value.code is errors.CLOSED


@pytest.mark.parametrize("late", ["tagged", "bare", "cut"])
def test_a_late_error_is_detected_however_the_server_reports_it(tmp_path: Path, late: str) -> None:
    with serve(tmp_path, late=late) as url:
        warehouse = Server(url).open()
        for format in (Format.NDJSON, Format.JSON):
            stream = warehouse.stream(LATE, format)
            with pytest.raises(EngineError) as caught:
                for part in stream:
                    assert b"Code: 395" not in part
            if late != "cut" or format is Format.JSON:
                assert (caught.value.engine_code, caught.value.message) == (395, "late")
            else:
                assert caught.value.code in (errors.UNREACHABLE, errors.ENGINE_INTERNAL)
        assert list(warehouse.stream(Statement("SELECT 1 AS a"), Format.NDJSON)) == [b'{"a":1}\n']
        warehouse.close()


def test_a_server_without_a_parser_gets_a_local_one(
    server: Server, embedded: EmbeddedWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse = server.open()
    monkeypatch.setattr(warehouse, "_parses", False)
    assert embedded_module.in_this_process() is embedded
    tree, text = warehouse.parse("select 1")
    assert warehouse.format(tree) == text == "SELECT 1"
    warehouse.close()


def test_an_insert_is_not_retried_when_its_connection_breaks(tmp_path: Path) -> None:
    """The connection is closed after the rows arrived; the client must not send them again."""
    with serve(tmp_path) as url, socket.create_server(("127.0.0.1", 0)) as listener:
        warehouse = Server(url).open()
        seen = []

        def cut() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    seen.append(connection.recv(65536))

        threading.Thread(target=cut, daemon=True).start()
        backend = warehouse._writer._backend  # type: ignore[attr-defined]
        backend._base_url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        with pytest.raises(EngineError) as caught:
            warehouse.insert("x.y", b'{"a":1}\n', Input.NDJSON)
        assert caught.value.code is errors.UNREACHABLE
        assert len(seen) == 1
        warehouse.close()


@own
def test_the_test_server_requires_credentials(server: Server) -> None:
    assert server.reader_user == READER[0]
    with pytest.raises(EngineError):
        Server(server.url, user="default", password="").open(database=EMPTY)
