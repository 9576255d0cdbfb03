"""What is lost or doubled when each system call of an insert and its fan-out fails once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from benchmarks.report import Goal, Report
from tests.fanout.faults import CALLS, ERRORS, POOLED, TENANTS, Fault, Trial, differences, findings, send, why_not
from tests.fanout.stream import project
from tests.support.server import running

MOST = 200
"""Calls of one kind that a thread makes for a batch, at most."""
QUICK = 3
BEFORE_RESTART = 10
"""Faults after which the server is restarted and everything is checked again."""
METHOD = """\
strace makes the N-th call of one kind fail in every thread of the server, with EIO or ENOSPC, while one request
is sent under a key; then the request is repeated until it is answered. N grows until no call failed. After each
fault, landing is compared with what was sent, and copies and sums with landing; after every tenth the server
starts anew and the doctor looks at all of it. `write` is left out: it also serves sockets and pipes, and the
engine ignores some writes into parts that fail, for which the reserve of free space stands in."""
COLUMNS = ("fan-out", "call", "faults", "calls that failed", "answered at once", "wrong afterwards")


def run(directory: Path, *, quick: bool) -> list[Report]:
    """Both modes, all calls, both errors."""
    reason = why_not()
    if reason is not None:
        print(f"not run: {reason}", file=sys.stderr)
        return []
    rows: list[list[Any]] = []
    for mode in ("direct", "routed"):
        trials, wrong = _tried(directory / mode, mode, QUICK if quick else MOST)
        for call in CALLS:
            some = [t for t in trials if t.fault.call == call]
            bad = sum(bool(t.wrong) for t in some)
            failed, at_once = sum(t.failed for t in some), sum(t.statuses == [200] for t in some)
            rows.append([mode, call, len(some), failed, at_once, bad])
        rows.append([mode, "after a restart", "", "", "", len(wrong)])
    bad = sum(int(r[5]) for r in rows)
    goal = Goal("nothing lost or doubled by any call that fails", f"{bad} differences", bad == 0)
    return [Report("faults", "Rows that failing system calls lose or double", METHOD, COLUMNS, rows, goals=[goal])]


def _tried(directory: Path, mode: str, most: int) -> tuple[list[Trial], list[str]]:
    """All faults in one mode, and what was wrong after restarts."""
    sent: list[dict[str, int]] = []
    trials: list[Trial] = []
    wrong: list[str] = []
    with running(directory, ROOKERY_LOG_LEVEL="error") as server:
        server.push(project(mode))
        server.done("POST", "/v0/tenants", json={"ids": [t for t in TENANTS if t != POOLED], "placement": "tables"})
        server.tenant(POOLED)
    waiting = [(call, error, 1) for call in CALLS for error in ERRORS]
    while waiting:
        with running(directory, ROOKERY_LOG_LEVEL="error") as server:
            wrong += differences(server, sent)
            wrong += [str(f) for f in findings(server) if f["level"] == "error"]
            for _ in range(BEFORE_RESTART):
                if not waiting:
                    break
                call, error, when = waiting.pop()
                trial = send(server, sent, Fault(call, error, when), directory / "trace")
                trial.wrong = differences(server, sent)
                trials.append(trial)
                if trial.wrong or trial.statuses[-1] != 200:
                    print(f"{mode}: {trial}", file=sys.stderr)
                if trial.failed and when < most:
                    waiting.append((call, error, when + 1))
    with running(directory) as server:
        wrong += differences(server, sent)
        wrong += [str(f) for f in findings(server) if f["level"] == "error"]
    if wrong:
        print(f"{mode}: {wrong}", file=sys.stderr)
    return trials, wrong
