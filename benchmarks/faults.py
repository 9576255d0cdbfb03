"""Counts rows that are lost or duplicated when each system call of an insert and its fan-out fails once."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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
MAX_REPEATS = 8
"""Batches in a row with fewer calls than a position, after which no batch is assumed to make that many. The number of
calls varies, because merges, the journal and the fan-out run at the same time."""
METHOD = """\
strace makes the N-th call of one kind fail in every thread of the server, with EIO or ENOSPC, while one request
with an idempotency key is sent; then the request is repeated until it succeeds. `write` is also used for sockets
and pipes, so a preloaded library makes the N-th write to the data directory fail, either entirely or after half of
its bytes. N increases, and a position is repeated if a batch made fewer calls, until eight batches in a row did.
After each fault, landing, copies, sums and quarantine are compared with what was sent, and the journal must have no
outstanding deliveries. After every tenth fault the server is killed (SIGKILL) and restarted, everything is compared
again, and `rookery doctor` examines the workspace."""
COLUMNS = (
    "fan-out",
    "call",
    "faults",
    "positions that failed",
    "last position",
    "positions skipped",
    "answered at once",
    "wrong afterwards",
)
NONE: Mapping[str, str] = {}
Send = Callable[[Server, SentRows, Fault], Trial]


@dataclass(slots=True)
class Position:
    """The call that will fail next, of one kind and with one error."""

    call: str
    error: str
    when: int = 1
    """Its number among the calls of a batch."""
    misses: int = 0
    """Batches in a row that made fewer calls."""

    def advance(self, *, failed: bool) -> bool:
        """Go to the next position if a call has failed. Returns whether a batch may still make that many calls."""
        self.when, self.misses = (self.when + 1, 0) if failed else (self.when, self.misses + 1)
        return self.misses < MAX_REPEATS


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
    bad, skipped = sum(int(r[7]) for r in rows), sum(r[5] for r in rows if r[5] != "")
    tried = sum(r[3] for r in rows if r[3] != "")
    goals = [
        Goal("nothing lost or duplicated by any failing call", f"{bad} differences", bad == 0),
        Goal("every position of every call fails once", f"{tried} failed, {skipped} did not", not skipped),
    ]
    return [Report("faults", "Rows lost or duplicated by failing system calls", METHOD, COLUMNS, rows, goals=goals)]


def _rows(
    directory: Path, mode: str, most: int, calls: Iterable[str], send: Send, environment: Mapping[str, str] = NONE
) -> Iterator[list[Any]]:
    """A row of the report for each call, and one for differences after restarts."""
    trials, wrong = _tried(directory, mode, most, tuple(calls), send, environment)
    for call in calls:
        some = [t for t in trials if t.fault.call == call]
        bad = sum(bool(t.wrong) for t in some)
        # For each error, the positions of calls that failed. None may be missing below the last one.
        reached = [{t.fault.when for t in some if t.failed and t.fault.error == error} for error in ERRORS]
        last = max((when for positions in reached for when in positions), default=0)
        failed, skipped = sum(map(len, reached)), sum(max(p, default=0) - len(p) for p in reached)
        if last >= MOST:
            skipped += 1
        yield [mode, call, len(some), failed, last, skipped, sum(t.statuses == [200] for t in some), bad]
    yield [mode, "after a restart", "", "", "", "", "", len(wrong)]


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
    waiting = [Position(call, error) for call in calls for error in ERRORS]
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
                position = waiting.pop()
                trial = send(server, sent, Fault(position.call, position.error, position.when))
                trial.wrong = differences(server, sent)
                trials.append(trial)
                if trial.wrong or trial.statuses[-1] != 200:
                    print(f"{mode}: {trial}", file=sys.stderr)
                if position.advance(failed=bool(trial.failed)) and position.when <= most:
                    waiting.append(position)
            server.process.send_signal(signal.SIGKILL)
            server.process.wait()
