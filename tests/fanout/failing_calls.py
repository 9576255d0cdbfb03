"""System calls of a running server fail; afterwards every row is checked.

A fault of strace is the N-th call of one kind that each thread makes after strace was attached. Writes fail by a
preloaded library (`tests/fanout/failing_writes.py`) and are counted over all threads. Meanwhile one batch is sent under
a key and repeated until it is acknowledged, as its sender would do.
"""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.fanout.retrying_writers import CHECKSUM
from tests.support.server import Server

OWN, POOLED = ("1", "2"), "8"
TENANTS = (*OWN, POOLED)
CALLS = ("rename", "mkdir", "openat", "unlink", "fsync", "fdatasync", "ftruncate", "link", "symlink", "fallocate")
"""Calls that change files, of those that strace can make fail: `write` also serves pipes and sockets."""
ERRORS = ("EIO", "ENOSPC")
PATIENCE = 60.0
_IDS = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Fault:
    """A call that fails, in the order of each thread's calls of its kind, or of all threads' writes."""

    call: str
    error: str
    when: int

    def __str__(self) -> str:
        return f"{self.call} {self.when} {self.error}"


@dataclass(slots=True)
class Trial:
    """What a fault did: calls that failed, statuses of the request's tries, and what is wrong afterwards.

    `file` is the one whose write failed.
    """

    fault: Fault
    failed: int
    statuses: list[int] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    file: str = ""


@dataclass(slots=True)
class SentRows:
    """What was sent: rows that can be stored, and the text of those that cannot."""

    good: list[dict[str, int]] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)


def reason_to_skip() -> str | None:
    """Why calls cannot be made to fail here; None if they can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    own = subprocess.Popen(["sleep", "20"])
    try:
        tracer = subprocess.Popen(
            ["strace", "-f", "-p", str(own.pid), "-e", "trace=rename", "-e", "inject=rename:error=EIO:when=1"],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert tracer.stderr is not None
        line = tracer.stderr.readline()
        tracer.terminate()
        tracer.wait()
        return None if "attached" in line else f"strace may not attach: {line.strip()}"
    finally:
        own.kill()
        own.wait()


def send(server: Server, sent: SentRows, fault: Fault, trace: Path) -> Trial:
    """Send one batch during a fault of strace, and repeat it until it is stored."""
    trial = Trial(fault, 0)
    batch = new_batch()
    with _failing(server.process.pid, fault, trace):
        trial.statuses.append(post(server, batch, str(fault)))
    trial.failed = trace.read_text(errors="replace").count("(INJECTED)")
    repeat_until_stored(server, trial, batch, sent)
    return trial


def new_batch() -> SentRows:
    """Three rows for each tenant, and one that goes to quarantine."""
    good = [{"tenant_id": int(t), "id": next(_IDS), "n": next(_IDS) % 100} for t in TENANTS for _ in range(3)]
    return SentRows(good, [json.dumps({"tenant_id": 1, "id": f"none {next(_IDS)}", "n": 1})])


def repeat_until_stored(server: Server, trial: Trial, batch: SentRows, sent: SentRows) -> None:
    deadline = time.monotonic() + PATIENCE
    while trial.statuses[-1] != 200 and time.monotonic() < deadline:
        time.sleep(0.05)
        trial.statuses.append(post(server, batch, str(trial.fault)))
    sent.good += batch.good
    sent.bad += batch.bad


def post(server: Server, batch: SentRows, key: str) -> int:
    try:
        answer = server.admin(
            "POST",
            "/v0/events",
            params={"name": "events", "wait": "visible"},
            content="\n".join([*map(json.dumps, batch.good), *batch.bad]),
            headers={"idempotency-key": f"{key} {batch.good[0]['id']}"},
        )
    except httpx.HTTPError:
        return 0
    return answer.status_code


class _failing:
    """strace attached to a process, with one fault."""

    def __init__(self, pid: int, fault: Fault, trace: Path) -> None:
        inject = f"inject={fault.call}:error={fault.error}:when={fault.when}"
        self._command = ["strace", "-f", "-q", "-o", str(trace), "-p", str(pid)]
        self._command += ["-e", f"trace={fault.call}", "-e", inject]
        self._pid = pid
        trace.write_text("")

    def __enter__(self) -> None:
        self._tracer = subprocess.Popen(self._command, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + PATIENCE
        while not all(_traced(task) for task in Path(f"/proc/{self._pid}/task").iterdir()):
            assert self._tracer.poll() is None, "strace has ended"
            assert time.monotonic() < deadline, "strace does not attach"
            time.sleep(0.01)

    def __exit__(self, *_: object) -> None:
        self._tracer.send_signal(signal.SIGTERM)
        self._tracer.wait()


def _traced(task: Path) -> bool:
    try:
        return "TracerPid:\t0\n" not in (task / "status").read_text()
    except OSError:
        return True


def differences(server: Server, sent: SentRows) -> list[str]:
    """Where landing, nests, sums and quarantine differ from what was sent, and what the journal says is behind."""
    deadline = time.monotonic() + PATIENCE
    tokens = {t: server.mint("DATASOURCES:READ:events", "DATASOURCES:READ:sums", tenant=t) for t in TENANTS}
    while True:
        differing = [line for t in TENANTS for line in _of_tenant(server, t, tokens[t], sent.good)]
        differing += [*_of_quarantine(server, sent), *_of_journal(server)]
        if not differing or time.monotonic() > deadline:
            return differing
        # A tenant whose tables failed is tried again after a second or two.
        time.sleep(0.2)


def _of_tenant(server: Server, tenant: str, token: str, sent: list[dict[str, int]]) -> Iterator[str]:
    mine = [r for r in sent if r["tenant_id"] == int(tenant)]
    expected = (len(mine), len(mine), sum(r["n"] for r in mine))
    for where, key in (("landing", server.admin_token), ("copy", token)):
        (row,) = server.sql(f"SELECT {CHECKSUM} FROM events WHERE tenant_id = {tenant}", key)
        actual = (int(row["rows"]), int(row["ids"]), int(row["total"]))
        if actual != expected:
            yield f"tenant {tenant}: {where} {actual}, sent {expected}"
    (row,) = server.sql("SELECT sum(events) AS rows, sum(total) AS total FROM sums", token)
    if (int(row["rows"]), int(row["total"])) != (expected[0], expected[2]):
        yield f"tenant {tenant}: sums {dict(row)}, sent {expected}"


def _of_quarantine(server: Server, sent: SentRows) -> Iterator[str]:
    answer = server.admin("GET", "/v0/datasources/events/quarantine", params={"limit": 1000})
    if answer.status_code != 200:
        yield f"quarantine: {answer.text}"
        return
    counted = Counter(row["c__text"] for row in answer.json()["rows"])
    for text, times in counted.items():
        if times > 1 or text not in sent.bad:
            yield f"quarantine: {times} times {text}"
    for text in sent.bad:
        if text not in counted:
            yield f"quarantine: {text} is missing"


def empty_quarantine(server: Server, sent: SentRows) -> None:
    """Remove the checked rows, so that one response shows the next ones."""
    server.admin_json("DELETE", "/v0/datasources/events/quarantine", json={"all": True})
    sent.bad.clear()


def _of_journal(server: Server) -> Iterator[str]:
    status = server.admin_json("GET", "/v0/fanout")
    (events,) = (d for d in status["datasources"] if d["datasource"] == "events")
    if events["rows"] or events["strays"] or events["in_step"] != len(OWN) or status["suspended"]:
        yield f"journal: {status}"


def findings(server: Server) -> list[dict[str, Any]]:
    """Everything that the doctor finds."""
    findings: list[dict[str, Any]] = server.admin_json("GET", "/v0/doctor", params={"deep": "true"})["findings"]
    return findings
