"""A server is killed during a push or while it adds tenants; repeating the command makes every table exact."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

import httpx
import pytest

from tests.cli.billing import FILES, USAGE_PIPE, assert_exact, assert_kinds_exact
from tests.cli.writers import history
from tests.support.server import Server, running
from tests.support.soak import soak_rounds

TENANTS = range(1, 9)
KILLS = soak_rounds(3)
ODD = {
    **FILES,
    "pipes/usage_pipe.yaml": USAGE_PIPE.replace("FROM events GROUP", "FROM events WHERE event != 'c' GROUP"),
}
ALLOW = ["usage_daily", "usage_pipe"]


def provision(server: Server, tenants: list[int]) -> None:
    """Add tenants of both placements, one command for each placement."""
    for placement, odd in (("tables", 1), ("pooled", 0)):
        ids = [str(t) for t in tenants if t % 2 == odd]
        if ids:
            server.admin_json("POST", "/v0/tenants", json={"ids": ids, "placement": placement})


def killed_during(server: Server, work: object, after: float) -> bool:
    """Kill the server `after` seconds into some work. Returns whether the work was interrupted."""
    done: list[bool] = []

    def attempt() -> None:
        try:
            assert callable(work)
            work()
            done.append(True)
        except (httpx.HTTPError, AssertionError):
            pass

    hand = threading.Thread(target=attempt)
    hand.start()
    time.sleep(after)
    server.process.kill()
    server.process.wait()
    hand.join()
    return not done


@pytest.mark.soak
@pytest.mark.proves("B7")
def test_interrupted_commands_are_completed_by_running_them_again(tmp_path: Path) -> None:
    """Each round kills the server at a random moment of a rebuild, or of adding tenants, both with history."""
    chance = random.Random(7)
    cut = 0
    with running(tmp_path / "home") as server:
        server.push(FILES)
        history(server, TENANTS, 3000)
        provision(server, [1, 2])
        begun = time.monotonic()
        server.push(ODD, allow=ALLOW)
        server.push(FILES, allow=ALLOW)
        long = (time.monotonic() - begun) / 2
    files, also = FILES, ""
    for kill in range(KILLS):
        with running(tmp_path / "home") as server:
            if kill % 2:
                files, also = (ODD, " AND event != 'c'") if files is FILES else (FILES, "")
            wanted = files
            fresh = [3 + kill // 2 % 3, 8 - kill // 2 % 3] if kill % 2 == 0 else []

            def work(server: Server = server, wanted: dict[str, str] = wanted, fresh: list[int] = fresh) -> None:
                if fresh:
                    provision(server, [t for t in fresh if t in TENANTS])
                else:
                    server.push(wanted, allow=ALLOW)

            if killed_during(server, work, chance.uniform(0.02, long)):
                cut += 1
            else:
                # The machine has become faster since it was measured.
                long = max(0.05, long * 0.7)
    assert cut >= KILLS // 3, "the kills came too late to prove anything"
    with running(tmp_path / "home") as server:
        server.push(files, allow=ALLOW)
        provision(server, list(TENANTS))
        assert not server.admin_json("POST", "/v0/push", json={"files": [], "dry_run": True})["steps"]
        odd = [t for t in TENANTS if t % 2]
        assert_exact(server, odd, [t for t in TENANTS if t % 2 == 0], also)
        assert_kinds_exact(server)
