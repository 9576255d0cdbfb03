"""What a command says if it cannot use a server: a wrong URL, another program, an address or directory in use."""

from __future__ import annotations

import http.server
import threading
from pathlib import Path

import pytest

from tests.cli.commands import Cli
from tests.support.server import running


def test_a_server_that_cannot_be_reached(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    for url in (
        *("http://127.0.0.1:9", "http://no.such.host.invalid", "ftp://127.0.0.1", "nonsense", "http://[::1"),
        *("http://user:secret@127.0.0.1:9", f"http://{'x' * 300}"),
    ):
        refused = cli("tenant", "ls", "--url", url, code=6).err
        assert "RK7003" in refused, url
        assert "secret" not in refused


def test_a_url_of_another_program(tmp_path: Path) -> None:
    found = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    found.RequestHandlerClass.log_message = lambda *_: None  # type: ignore[method-assign]
    hand = threading.Thread(target=found.serve_forever)
    hand.start()
    try:
        cli = Cli(tmp_path, {"ROOKERY_URL": f"http://127.0.0.1:{found.server_port}"})
        for command in (["tenant", "ls"], ["tenant", "add", "1"], ["sql", "SELECT 1"]):
            outcome = cli(*command, code=7) if command[1] == "ls" else cli(*command, code=1)
            assert "RK7005" in outcome.err
    finally:
        found.shutdown()
        hand.join()


ANSWERS = [(200, b"{}"), (200, b"[]"), (200, b"5"), (200, b'{"tokens": [5]}')]
ANSWERS += [(502, b'{"errors": {"a": 1, "b": 2}}'), (502, b'{"errors": [1, 2], "code": []}'), (502, b"[1]")]


@pytest.mark.parametrize(("status", "body"), ANSWERS, ids=ascii)
def test_a_url_of_a_program_that_answers_with_json(tmp_path: Path, status: int, body: bytes) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        threading.Thread(target=found.serve_forever).start()
        try:
            cli = Cli(tmp_path, {"ROOKERY_URL": f"http://127.0.0.1:{found.server_port}"})
            for command in (["token", "ls"], ["token", "show", "x"], ["doctor"]):
                assert "RK7005" in cli(*command, code=6).err
        finally:
            found.shutdown()


def test_a_directory_that_another_process_holds(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        here = Cli(tmp_path)
        assert here("--json", "tenant", "ls").json == [], "without --url, commands find the server of this directory"
        (tmp_path / ".rookery" / "server.json").unlink()
        text = here("tenant", "ls", code=6, ROOKERY_WAIT_SECONDS="0").err
        assert "RK6001" in text
        assert "hint:" in text
        assert "RK6001" in here("serve", "--port", "0", code=6, ROOKERY_WAIT_SECONDS="0").err
        busy = server.url.rpartition(":")[2]
        assert "RK7001" in Cli(tmp_path / "other").at(tmp_path)("serve", "--port", busy, code=1).err
    assert here("--json", "tenant", "ls").json == []


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1"])
def test_an_unreachable_host(tmp_path: Path, host: str) -> None:
    message = Cli(tmp_path)("serve", "--host", host, "--port", 0, code=1).err
    assert "RK7001" in message and "--host" in message


def test_an_invalid_url(tmp_path: Path) -> None:
    message = Cli(tmp_path)("tenant", "ls", ROOKERY_URL="127.0.0.1:7181", code=6).err
    assert "http://127.0.0.1:7181" in message
    with running(tmp_path / "home") as server:
        message = Cli(tmp_path)("tenant", "ls", ROOKERY_URL=server.url, code=5).err
        assert "rookery auth" in message
