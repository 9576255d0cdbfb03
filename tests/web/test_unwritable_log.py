"""A log that cannot be written (full disk, closed pipe) stops neither the server nor its writers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.support.server import ROOT, Server

FULL = Path("/dev/full")
EVENTS = """
tenant: {column: tenant_id, fanout: direct}
columns:
  - {name: tenant_id, type: UInt32}
  - {name: units, type: Int64}
engine: {sorting_key: [tenant_id]}
"""
RATIOS = """
sql: SELECT tenant_id, count() AS events, sum(intDiv(100, units)) AS ratio FROM events GROUP BY tenant_id
materialize: {target: ratios, per_tenant: true, engine: {type: SummingMergeTree, sorting_key: [tenant_id]}}
"""


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full")
def test_rows_are_stored_when_the_log_cannot_be_written(tmp_path: Path) -> None:
    with FULL.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "cli.main", "serve", "--port", "0"],
            cwd=tmp_path,
            env={**{k: v for k, v in os.environ.items() if not k.startswith("ROOKERY_")}, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        url = _url(process, tmp_path / ".rookery" / "server.json")
        token = (tmp_path / ".rookery" / "admin_token").read_text().strip()
        with httpx.Client(base_url=url, timeout=20, trust_env=False, verify=False) as http:
            server = Server(url, token, process, tmp_path, tmp_path / "none", http)
            server.push({"datasources/events.yaml": EVENTS, "pipes/fill_ratios.yaml": RATIOS})
            server.tenant("1", "tables")
            for units in (5, 0, 5):  # The view fails on the second, which is reported in the log.
                assert server.events("events", [{"tenant_id": 1, "units": units}])["successful_rows"] == 1
            assert server.sql("SELECT count() AS n FROM events") == [{"n": 3}]
            down = server.admin_json("GET", "/v0/fanout")["suspended"]
            assert [view["view"] for view in down] == ["main_nest_1._rk_fill_ratios"]
            assert server.stop() == 0
    finally:
        process.kill()
        process.wait()


def _url(process: subprocess.Popen[bytes], announced: Path) -> str:
    while process.poll() is None:
        try:
            url = str(json.loads(announced.read_text())["url"])
            httpx.get(f"{url}/live", timeout=5, trust_env=False, verify=False).raise_for_status()
            return url
        except (OSError, ValueError, KeyError, httpx.HTTPError):
            time.sleep(0.05)
    raise AssertionError(f"the server ended with {process.returncode}")
