"""Writes that fail where a repeated insert is recognized: in deduplication logs, and twice for one batch."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fanout.failing_calls import POOLED, TENANTS, Fault, SentRows, differences, findings
from tests.fanout.failing_writes import Writes, reason_to_skip
from tests.fanout.retrying_writers import project
from tests.support.server import Server, running

LOGS = "/deduplication_logs/"
LANDING = "/tmp_insert_2"
"""How the directories of parts begin while they are inserted into a table that is partitioned by month."""
FAR = 100_000
LOGGED = {"write": 6, "short write": 1}
"""Writes that fail: those of all tables in which the batch arrives, where the library can."""
A_PART, TWO_PARTS = 12, 30
"""Writes of an insert into landing, or less; and of one and its repetition, or more."""


@pytest.fixture
def writes(tmp_path: Path) -> Iterator[Writes]:
    if (reason := reason_to_skip()) is not None:
        pytest.skip(reason)
    yield Writes(tmp_path)


def _set_up(server: Server, mode: str, writes: Writes, sent: SentRows) -> None:
    server.push(project(mode))
    server.admin_json("POST", "/v0/tenants", json={"ids": [t for t in TENANTS if t != POOLED], "placement": "tables"})
    server.tenant(POOLED)
    assert writes.send(server, sent, Fault("write", "EIO", FAR), LOGS).statuses == [200]


@pytest.mark.parametrize(
    ("mode", "call"),
    [("direct", "short write"), pytest.param("routed", "write", marks=pytest.mark.soak_only)],
)
def test_batches_are_stored_once(tmp_path: Path, writes: Writes, mode: str, call: str) -> None:
    sent = SentRows()
    with running(tmp_path, **writes.environment) as server:
        _set_up(server, mode, writes, sent)
        # The part of a batch in landing is cut off, and again when it is repeated, while the views have its rows.
        for times in (A_PART, TWO_PARTS):
            trial = writes.send(server, sent, Fault("write", "EIO", 1), LANDING, times)
            assert trial.statuses[-1] == 200, trial
            assert differences(server, sent) == [], trial
        assert 503 in trial.statuses
        assert [f for f in findings(server) if f["level"] == "error"] == []
        # An insert is not logged: the first log is quarantine's, then come landing, the shared sums and two nests.
        trial = writes.send(server, sent, Fault(call, "EIO", 2), LOGS, LOGGED[call])
        assert trial.failed and trial.statuses[-1] == 200, trial
        assert differences(server, sent) == [], trial
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
    # The newest batch is completed.
    with running(tmp_path) as server:
        assert differences(server, sent) == []
        assert [f for f in findings(server) if f["level"] == "error"] == []
