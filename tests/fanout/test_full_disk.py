"""A disk fills up while rows arrive: once it has space again, no acknowledged row is missing from any table."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fanout.retrying_writers import project
from tests.support.server import Server, running

MIB = 40
ROWS = 4000
RUNS = {None: 1, 0: 1}
"""How often the disk fills up, by the reserve; `python -m benchmarks recovery` does it more often."""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted_disk(tmp_path / "small") as place:
        yield place


@contextmanager
def mounted_disk(place: Path) -> Iterator[Path]:
    """A file system of 40 MiB."""
    place.mkdir(parents=True)
    if os.geteuid() != 0:
        pytest.skip("a tmpfs can be mounted by root only")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={MIB}m", "tmpfs", place], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=False)


def _send(server: Server, number: int) -> tuple[int, dict[str, object], str | None]:
    rows = ({"tenant_id": 8 + n % 2, "id": number * ROWS + n, "n": n % 1000} for n in range(ROWS))
    answer = server.admin(
        "POST",
        "/v0/events",
        params={"name": "events", "wait": "true"},
        content="\n".join(map(json.dumps, rows)),
        headers={"idempotency-key": f"request {number}"},
    )
    return answer.status_code, answer.json(), answer.headers.get("retry-after")


def _assert_agree(server: Server, acknowledged: int) -> None:
    (landing,) = server.sql("SELECT count() AS c, sum(n) AS s, uniqExact(id) AS u FROM events WHERE tenant_id = 8")
    (sums,) = server.sql("SELECT sum(events) AS c, sum(total) AS s FROM sums WHERE tenant_id = 8")
    assert (int(landing["c"]), int(landing["s"])) == (int(sums["c"]), int(sums["s"]))
    assert int(landing["u"]) == int(landing["c"]) == acknowledged * ROWS // 2


@pytest.mark.parametrize("reserve", [None, 0], ids=["with its reserve", "to the last byte"])
def test_rollups_equal_landing_after_a_full_disk(small_disk: Path, reserve: int | None) -> None:
    fill_up(small_disk, reserve, RUNS[reserve])


def fill_up(small_disk: Path, reserve: int | None, runs: int) -> None:
    """Ballast leaves less room each time, so that the failure falls on another write; 0 leaves it to the engine."""
    settings = {} if reserve is None else {"ROOKERY_MIN_FREE": reserve}
    number = 0
    with running(small_disk, **settings) as server:
        server.push(project("direct"))
        server.tenant("8")
        for run in range(runs):
            free = shutil.disk_usage(small_disk).free
            ballast = small_disk / "ballast"
            ballast.write_bytes(bytes(max(0, free - (3 << 20) - run * 37_777)))
            while True:
                status, body, wait = _send(server, number)
                if status != 200:
                    break
                number += 1
                assert number < 1000, "the disk does not fill up"
            assert (status, body["code"]) == (507, "RK6008")
            assert wait
            assert server.get("/ready").status_code == (503 if reserve is None else 200)
            ballast.unlink()
            for _ in range(50):
                status, body, _ = _send(server, number)
                if status == 200:
                    break
            assert (status, body["successful_rows"]) == (200, ROWS)
            number += 1
            _assert_agree(server, number)
            assert server.get("/ready").status_code == 200
    with running(small_disk, **settings) as server:
        _assert_agree(server, number)
        report = server.admin_json("GET", "/v0/doctor", params={"deep": "true"})
        assert report["findings"] == []
