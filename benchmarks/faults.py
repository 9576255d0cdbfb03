"""Counts rows that are lost or duplicated when each system call of an insert and its fan-out fails once."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import Goal, Report
from tests.fanout import failing_calls, failing_writes
from tests.fanout.failing_calls import CALLS, ERRORS, POOLED, TENANTS, Fault, SentRows, Trial, differences, findings
from tests.fanout.retrying_writers import project
from tests.support.server import Server, running

MODES = ("direct", "routed")
MOST = 400
"""Maximum number of calls of one kind that a batch makes."""
QUICK = 3
BEFORE_RESTART = 10
"""Number of faults after which the server is killed and restarted, and everything is checked again."""
METHOD = """\
strace makes the N-th call of one kind fail in every thread of the server, with EIO or ENOSPC, while one request
with an idempotency key is sent; then the request is repeated until it succeeds. `write` is also used for sockets
and pipes, so a preloaded library makes the N-th write to the data directory fail, either entirely or after half of
its bytes. N increases until no call fails. After each fault, landing, copies, sums and quarantine are compared with
what was sent, and the journal must have no outstanding deliveries. After every tenth fault the server is killed
(SIGKILL) and restarted, everything is compared again, and `rookery doctor` examines the workspace."""
COLUMNS = ("fan-out", "call", "faults", "calls that failed", "answered at once", "wrong afterwards")
NONE: Mapping[str, str] = {}
Send = Callable[[Server, SentRows, Fault], Trial]


def run(directory: Path, *, quick: bool) -> list[Report]:
    """Test both modes, all calls and both errors."""
    rows: list[list[Any]] = []
    most = QUICK if quick else MOST
    for mode in MODES:
        if (reason := failing_writes.reason_to_skip()) is None:
            there = directory / f"{mode}-writes"
            library = failing_writes.Writes(there)
            rows += _rows(there, mode, most, failing_writes.CALLS, library.send, library.environment)
        else:
            print(f"failing writes were not tested: {reason}", file=sys.stderr)
        if (reason := failing_calls.reason_to_skip()) is None:
            there = directory / mode
            rows += _rows(
                there, mode, most, CALLS, lambda s, sent, f, d=there: failing_calls.send(s, sent, f, d / "trace")
            )
        else:
            print(f"other failing calls were not tested: {reason}", file=sys.stderr)
    bad = sum(int(r[5]) for r in rows)
    goal = Goal("nothing lost or duplicated by any failing call", f"{bad} differences", bad == 0)
    return [Report("faults", "Rows lost or duplicated by failing system calls", METHOD, COLUMNS, rows, goals=[goal])]


def _rows(
    directory: Path, mode: str, most: int, calls: Iterable[str], send: Send, environment: Mapping[str, str] = NONE
) -> Iterator[list[Any]]:
    """A row of the report for each call, and one for differences after restarts."""
    trials, wrong = _tried(directory, mode, most, tuple(calls), send, environment)
    for call in calls:
        some = [t for t in trials if t.fault.call == call]
        bad = sum(bool(t.wrong) for t in some)
        failed, at_once = sum(t.failed for t in some), sum(t.statuses == [200] for t in some)
        yield [mode, call, len(some), failed, at_once, bad]
    yield [mode, "after a restart", "", "", "", len(wrong)]


def _tried(
    directory: Path, mode: str, most: int, calls: Sequence[str], send: Send, environment: Mapping[str, str]
) -> tuple[list[Trial], list[str]]:
    """Run all faults in one mode. Returns the differences, including those after restarts."""
    sent = SentRows()
    trials: list[Trial] = []
    wrong: list[str] = []
    settings = {"ROOKERY_LOG_LEVEL": "error", **environment}
    with running(directory, **settings) as server:
        server.push(project(mode))
        server.admin_json(
            "POST", "/v0/tenants", json={"ids": [t for t in TENANTS if t != POOLED], "placement": "tables"}
        )
        server.tenant(POOLED)
    waiting = [(call, error, 1) for call in calls for error in ERRORS]
    while True:
        with running(directory, **settings) as server:
            found = differences(server, sent)
            found += [str(f) for f in findings(server) if f["level"] == "error"]
            if found:
                print(f"{mode}, after a restart: {found}", file=sys.stderr)
            wrong += found
            if not waiting:
                return trials, wrong
            failing_calls.empty_quarantine(server, sent)
            for _ in range(BEFORE_RESTART):
                if not waiting:
                    break
                call, error, when = waiting.pop()
                trial = send(server, sent, Fault(call, error, when))
                trial.wrong = differences(server, sent)
                trials.append(trial)
                if trial.wrong or trial.statuses[-1] != 200:
                    print(f"{mode}: {trial}", file=sys.stderr)
                if trial.failed and when < most:
                    waiting.append((call, error, when + 1))
            server.process.send_signal(signal.SIGKILL)
            server.process.wait()
