"""A server is killed while it delivers history; afterwards every row is stored once."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import httpx
import pytest

from tests.cli.test_foreign_objects import on_the_engine
from tests.support.in_process import PATIENCE
from tests.support.server import Server, running

PROJECT = Path(__file__).resolve().parents[2] / "examples" / "reviews"
TENANTS = [str(n) for n in range(100)]
BATCHES, LATER = 10, 130
"""Later batches are more than the tokens of deliveries that a target remembers."""
INTO_THE_NEXT = 0.05
"""Seconds from the first deleted ranges to the kill: some later ranges have arrived and are still recorded."""


@pytest.mark.proves("B7")
def test_history_is_delivered_once_after_a_kill(tmp_path: Path) -> None:
    """Pooled tenants share a target, so its memory of tokens is used up soonest."""
    with running(tmp_path) as server:
        server.push(PROJECT)
        for _ in range(BATCHES):
            server.events("reviews", _rows())
        _killed_while_delivering(server)
    with running(tmp_path) as server:
        for _ in range(LATER):
            server.events("reviews", _rows())
        # No command is repeated.
        deadline = time.monotonic() + PATIENCE
        while {t["state"] for t in server.admin_json("GET", "/v0/tenants")["tenants"]} != {"ready"}:
            assert time.monotonic() < deadline, server.log()
            time.sleep(0.1)
    counts = ("count() FROM main.reviews", "sum(reviews) FROM main.monthly_reviews")
    for counted in on_the_engine(tmp_path, *(f"SELECT vendor_id, {what} GROUP BY vendor_id" for what in counts)):
        assert dict(counted) == {int(tenant): BATCHES + LATER for tenant in TENANTS}


def _rows() -> list[dict[str, object]]:
    return [{"vendor_id": int(t), "reviewer_id": 1, "rating": 5, "date": "2020-01-01 00:00:00"} for t in TENANTS]


def _killed_while_delivering(server: Server) -> None:
    headers = {"accept": "application/x-ndjson", "authorization": f"Bearer {server.admin_token}"}
    body = {"ids": TENANTS, "placement": "pooled"}
    seen = []
    try:
        with server.http.stream("POST", "/v0/tenants", json=body, headers=headers) as answer:
            for line in answer.iter_lines():
                seen.append(json.loads(line))
                if "backfill" in seen[-1].get("progress", {}).get("what", ""):
                    time.sleep(INTO_THE_NEXT)
                    server.process.send_signal(signal.SIGKILL)
    except httpx.HTTPError:
        pass
    server.process.wait()
    assert seen, "the delivery reported no progress"
    assert "result" not in seen[-1], "the delivery was over before the server was killed"
