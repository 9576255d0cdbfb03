"""`rookery log`, the log files, and the events in them."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.log_reader import Selection
from engine.observe.log_file import FILES, LogFile, older_files
from tests.cli.commands import Cli
from tests.support.forking import Forked
from tests.support.server import ROOT, running, sources

EVENTS = """
tenant: tenant_id
columns:
  - {name: tenant_id, type: UInt32}
  - {name: note, type: String}
engine: {sorting_key: [tenant_id]}
"""


RATES = "columns: [{name: rate, type: Float64}]\nengine: {sorting_key: [rate]}\n"


def written(directory: Path) -> list[dict[str, Any]]:
    """The events in the newest file."""
    text = (directory / ".rookery" / "server.log").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.02)


def test_events_say_what_changed_who_did_it_and_in_which_request(tmp_path: Path) -> None:
    with running(tmp_path) as server:

        def send(method: str, path: str, id: str, **given: Any) -> None:
            answer = server.request(method, path, deployer, headers={"x-request-id": id}, **given)
            assert answer.status_code < 300, answer.text

        deployer = server.static("the deployer", "ADMIN")
        files = sources({"datasources/events.yaml": EVENTS, "datasources/rates.yaml": RATES})
        send("POST", "/v0/push", "a-push", json={"files": files})
        send("POST", "/v0/tenants", "add-tenants", json={"ids": [str(n) for n in range(1, 15)]})
        send("POST", "/v0/tokens", "mint", json={"name": "m", "ttl": 60, "scopes": ["DATASOURCES:READ:events"]})
        send("POST", "/v0/tokens", "create", json={"name": "c", "scopes": ["DATASOURCES:READ:events"]})
        send("POST", "/v0/tokens/c/refresh", "refresh")
        send("DELETE", "/v0/tokens/c", "remove-token")
        send("POST", "/v0/signing-key", "rotate", json={"overlap": 60})
        send("POST", "/v0/events?name=events&wait=true", "append", content='{"tenant_id": "x"}')
        send("POST", "/v0/datasources/events/quarantine/replay", "replay")
        send("DELETE", "/v0/datasources/events/quarantine", "drop", json={"all": True})
        send("POST", "/v0/datasources?name=rates&mode=replace&format=csv", "replace", content="rate\n1\n")
        send("DELETE", "/v0/tenants/1?purge=true", "purge")
        send("DELETE", "/v0/tenants/2", "remove-tenant")
        send("POST", "/v0/doctor", "repair", json={"allow": []})
        send("DELETE", "/v0/datasources/events", "remove-events")
        dry = server.admin("POST", "/v0/push", json={"files": files, "dry_run": True})
        assert dry.status_code == 200
        secret = server.mint("DATASOURCES:READ:rates")
    done = [event for event in written(tmp_path) if event["event"] != "request"]
    by_request = {event.get("request_id"): event for event in done}
    expected = {
        "a-push": ("pushed", {"created": "events,rates"}),
        "add-tenants": ("tenants added", {"tenants": "1,2,3,4,5,6,7,8,9,10,+4", "placement": "pooled"}),
        "mint": ("token minted", {"name": "m", "scopes": "DATASOURCES:READ:events", "seconds": 60}),
        "create": ("token created", {"name": "c"}),
        "refresh": ("token refreshed", {"name": "c"}),
        "remove-token": ("token removed", {"name": "c"}),
        "rotate": ("signing key rotated", {"overlap": 60}),
        "replay": ("quarantine replayed", {"datasource": "events", "rows": 0}),
        "drop": ("quarantine removed", {"datasource": "events", "rows": 1}),
        "replace": ("rows replaced", {"datasource": "rates"}),
        "purge": ("tenant purged", {"tenant": "1"}),
        "remove-tenant": ("tenant removed", {"tenant": "2"}),
        "repair": ("repaired", {}),
        "remove-events": ("resources removed", {"removed": "events"}),
    }
    for id, (what, details) in expected.items():
        event = by_request[id]
        assert (event["event"], event["token"], event["level"]) == (what, "the deployer", "info")
        assert {name: event.get(name) for name in details} == details
    assert [event["event"] for event in done].count("pushed") == 1, "a dry run changes nothing"
    assert [event["event"] for event in done if "request_id" not in event][:1] == ["started"]
    assert [event["event"] for event in done][-2:] == ["stopping", "stopped"]
    text = (tmp_path / ".rookery" / "server.log").read_text(encoding="utf-8")
    assert deployer not in text and secret not in text and secret.split(".")[2] not in text


def test_a_start_after_a_kill_says_so(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        server.push({"datasources/events.yaml": EVENTS})
        left = (tmp_path / ".rookery" / "server.json").read_text()
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
        assert server.process.poll() not in (None, 0)
    # The next server is started without the help of `running`, which removes the file.
    (tmp_path / ".rookery" / "server.json").write_text(left)
    with Path(os.devnull).open("r+b") as nothing:
        streams = (nothing.fileno(),) * 3
        process = Forked(["serve", "--port", "0"], tmp_path, Cli(tmp_path).seen(), streams)
    try:
        wait_for(lambda: [e["event"] for e in written(tmp_path)].count("started") == 2)
    finally:
        process.terminate()
        process.wait(30)
    warned = [e for e in written(tmp_path) if "was killed" in e["event"]]
    assert [e["level"] for e in warned] == ["warning"]
    with running(tmp_path):
        pass
    assert len([e for e in written(tmp_path) if "was killed" in e["event"]]) == 1, "this one stopped in order"


def test_a_command_without_a_server_logs_its_changes_but_not_its_requests(tmp_path: Path) -> None:
    (tmp_path / "datasources").mkdir()
    (tmp_path / "datasources" / "events.yaml").write_text(EVENTS)
    assert Cli(tmp_path)("push").code == 0
    assert [e["event"] for e in written(tmp_path) if e["event"] in ("pushed", "request")] == ["pushed"]


LINES = [
    {"timestamp": f"2026-11-29T10:00:0{n}.000Z", "level": level, "event": f"event {n}", "n": n}
    for n, level in enumerate(("debug", "info", "warning", "error", "info"))
]


def with_log(directory: Path, *files: list[dict[str, Any]]) -> Cli:
    """A directory with these files, the newest first."""
    path = directory / ".rookery" / "server.log"
    path.parent.mkdir()
    for name, events in zip([path, *older_files(path)], files, strict=False):
        name.write_text("".join(json.dumps(event) + "\n" for event in events))
    return Cli(directory)


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ((), [1, 2, 3, 4]),
        (("--level", "debug"), [0, 1, 2, 3, 4]),
        (("--level", "WARNING"), [2, 3]),
        (("--level", "error"), [3]),
        (("-n", "2"), [3, 4]),
        (("-n", "0"), []),
        (("--since", "2026-11-29T10:00:03+00:00"), [3, 4]),
        (("--since", "2026-11-29T11:00:03+01:00", "-n", "1"), [4]),
        (("--since", "2999-01-01"), []),
    ],
    ids=lambda value: " ".join(value) if value and isinstance(value[0], str) else None,
)
def test_lines_are_selected(tmp_path: Path, arguments: tuple[str, ...], shown: list[int]) -> None:
    cli = with_log(tmp_path, LINES[3:], LINES[1:3], LINES[:1])
    done = cli("--json", "log", *arguments)
    assert done.code == 0, done.err
    assert [json.loads(line)["n"] for line in done.out.splitlines()] == shown
    if not arguments:
        assert re.findall(r"event (\d)", cli("log").out) == [str(n) for n in shown]


@pytest.mark.parametrize(
    ("arguments", "exit_code", "code"),
    [
        (("--level", "loud"), 2, "RK7002"),
        (("--since", "yesterday"), 2, "RK7002"),
        (("--since", "99999999d"), 2, "RK7002"),
        (("--since", "999999d"), 2, "RK7002"),
        (("-n", "-1"), 2, "RK7002"),
        (("--url", "http://127.0.0.1:9"), 1, "RK1008"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_wrong_options_are_refused(tmp_path: Path, arguments: tuple[str, ...], exit_code: int, code: str) -> None:
    done = with_log(tmp_path, LINES)("log", *arguments, code=exit_code)
    assert code in done.err and "Traceback" not in done.err


def test_a_missing_log_is_named(tmp_path: Path) -> None:
    done = Cli(tmp_path)("log", code=1)
    assert "RK1008" in done.err and "server.log" in done.err
    assert not (tmp_path / ".rookery").exists()


def test_damaged_lines_are_skipped_and_nothing_reaches_the_terminal_unescaped(tmp_path: Path) -> None:
    cli = with_log(tmp_path, LINES)
    path = tmp_path / ".rookery" / "server.log"
    hostile = {**LINES[1], "event": "a\x1b[2J\nb", "token": "\x9b\u202e c", "n": 9}
    damaged = [
        b"[1]",
        b"not json",
        b"\xff\xfe",
        b"\0\0",
        b"[" * 100_000,
        b'{"level": []}',
        json.dumps(hostile).encode(),
    ]
    path.write_bytes(path.read_bytes() + b"".join(d + b"\n" for d in damaged) + b'{"cut')
    text = cli("log").out
    assert len(text.splitlines()) == 5 and all(c.isprintable() or c == "\n" for c in text)


def test_the_log_is_followed_across_rotations(tmp_path: Path) -> None:
    with_log(tmp_path, LINES[1:2])
    path = tmp_path / ".rookery" / "server.log"
    process = subprocess.Popen(
        [sys.executable, "-m", "cli.main", "--json", "log", "-f"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["n"] == 1
        log = LogFile(path, FILES * 300)
        for n in range(12):
            log.write([json.dumps({**LINES[1], "n": 100 + n, "filler": "x" * 100}).encode() + b"\n"])
            assert json.loads(process.stdout.readline())["n"] == 100 + n
        assert (tmp_path / ".rookery" / "server.log.3").exists(), "files were moved meanwhile"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 130 and "Traceback" not in errors
    finally:
        process.kill()


def test_log_files_are_private_and_of_limited_size(tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    limit = 40_000
    log = LogFile(path, limit)
    line = b"x" * 99 + b"\n"
    for _ in range(50):
        assert log.write([line] * 37) == 0
        files = [file for file in (path, *older_files(path)) if file.exists()]
        assert sum(file.stat().st_size for file in files) <= limit
    assert len(files) == FILES
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert all(file.read_bytes().replace(line, b"") == b"" for file in files), "lines are whole"


def test_a_log_file_that_is_moved_or_replaced_is_written_anew_and_links_are_not_followed(tmp_path: Path) -> None:
    path, other = tmp_path / "server.log", tmp_path / "other"
    log = LogFile(path, 1 << 20)
    log.write([b"1\n"])
    path.rename(other)
    log.write([b"2\n"])
    assert (other.read_bytes(), path.read_bytes()) == (b"1\n", b"2\n")
    path.unlink()
    other.write_bytes(b"")
    path.symlink_to(other)
    assert log.write([b"3\n"] * 5) == 5, "the lines are counted as lost"
    assert other.read_bytes() == b""
    path.unlink()
    assert log.write([b"4\n"]) == 0 and path.read_bytes() == b"4\n"
    assert LogFile(tmp_path / "missing" / "server.log", 1 << 20).write([b"5\n"]) == 1
    os.mkfifo(tmp_path / "pipe")
    assert LogFile(tmp_path / "pipe", 1 << 20).write([b"6\n"]) == 1, "it does not wait for a reader"


def test_the_age_of_lines_is_counted_from_now() -> None:
    assert Selection.of("info", "1h", None).after > Selection.of("info", "2h", None).after
    assert Selection.of("info", None, None).lines == 100
    assert Selection.of("info", "1d", None).lines is None
