"""A sample of writes that fail during ingestion and fan-out; `python -m benchmarks faults` tries all of them."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest

from tests.fanout.failing_calls import ERRORS, POOLED, TENANTS, Fault, SentRows, differences, findings
from tests.fanout.failing_writes import CALLS, Writes, reason_to_skip
from tests.fanout.retrying_writers import project
from tests.support.server import running
from tests.support.soak import soaking

SAMPLE = 8
SEED = 6
FAR = 100_000
"""More writes than a batch makes."""


# Direct fan-out: `test_failing_calls.py` in each run.
@pytest.mark.parametrize("mode", ["routed", pytest.param("direct", marks=pytest.mark.soak_only)])
@pytest.mark.soak
def test_every_row_is_stored_once_after_failures(tmp_path: Path, mode: str) -> None:
    if (reason := reason_to_skip()) is not None:
        pytest.skip(reason)
    chance = random.Random(f"{SEED} {mode}")
    writes, sent = Writes(tmp_path), SentRows()
    with running(tmp_path, **writes.environment) as server:
        server.push(project(mode))
        server.admin_json(
            "POST", "/v0/tenants", json={"ids": [t for t in TENANTS if t != POOLED], "placement": "tables"}
        )
        server.tenant(POOLED)
        assert writes.send(server, sent, Fault("write", "EIO", FAR)).statuses == [200]
        count = writes.seen
        assert count > SAMPLE, "the engine's writes are not seen"
        # Parts of the way: quarantine, receipts, landing, the views behind it, nests and the journal.
        for part in range(0, SAMPLE, 1 if soaking() else 2):
            when = chance.randint(part * count // SAMPLE + 1, (part + 1) * count // SAMPLE)
            fault = Fault(chance.choice([*CALLS]), chance.choice(ERRORS), when)
            trial = writes.send(server, sent, fault)
            if not trial.failed:
                # Batches differ in their number of writes, so a late position may lie beyond the last one.
                fault = Fault(fault.call, fault.error, when - count // SAMPLE)
                trial = writes.send(server, sent, fault)
            assert trial.failed, f"{fault} of {count}"
            assert trial.statuses[-1] == 200, trial
            assert set(trial.statuses) <= {200, 503, 507}, trial
            assert differences(server, sent) == [], trial
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
    with running(tmp_path) as server:
        assert differences(server, sent) == []
        assert [f for f in findings(server) if f["level"] == "error"] == []
