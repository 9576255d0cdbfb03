"""A sample of system calls that fail during ingestion and fan-out; `python -m benchmarks faults` tries all of them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.fanout.failing_calls import POOLED, TENANTS, Fault, SentRows, differences, findings, reason_to_skip, send
from tests.fanout.retrying_writers import project
from tests.support.server import running

SAMPLE = 2
SEED = 20
CALLS = {"rename": 8, "mkdir": 8, "openat": 40}
"""Calls of which the sample is taken, and how many of them a thread makes for a batch, or more."""


@pytest.mark.parametrize("mode", ["direct", pytest.param("routed", marks=pytest.mark.soak_only)])
def test_every_row_is_stored_once_after_failures(tmp_path: Path, mode: str) -> None:
    if (reason := reason_to_skip()) is not None:
        pytest.skip(reason)
    chance = random.Random(f"{SEED} {mode}")
    sent = SentRows()
    with running(tmp_path) as server:
        server.push(project(mode))
        server.admin_json(
            "POST", "/v0/tenants", json={"ids": [t for t in TENANTS if t != POOLED], "placement": "tables"}
        )
        server.tenant(POOLED)
        faults = [Fault(c, chance.choice(("EIO", "ENOSPC")), chance.randint(1, n)) for c, n in CALLS.items()]
        # A rename that brings a view's part into place leaves a token without rows.
        faults[0] = Fault("rename", "EIO", chance.choice((2, 3, 5)))
        failed = 0
        for fault in faults:
            trial = send(server, sent, fault, tmp_path / "trace")
            failed += trial.failed
            assert trial.statuses[-1] == 200, f"{fault}: {trial.statuses}"
            assert set(trial.statuses) <= {200, 503, 507}, f"{fault}: {trial.statuses}"
            assert differences(server, sent) == [], str(fault)
        assert failed >= SAMPLE
    with running(tmp_path) as server:
        assert differences(server, sent) == []
        assert [f for f in findings(server) if f["level"] == "error"] == []
