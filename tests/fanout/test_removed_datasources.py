"""The removal of a routed datasource: its worker reports no failures, and a killed removal can be completed."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from engine.control import resources
from engine.control.push import PushOptions, push
from engine.errors import RookeryError
from engine.fanout.landing_log import LandingLog
from tests.fanout.retrying_writers import project
from tests.support.in_process import PATIENCE, open_rookery

ROWS = [{"tenant_id": 1, "id": 1, "n": 5}]


def test_a_datasource_that_is_being_removed_reports_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for pause in ("POLL_SECONDS", "RETRY_PAUSE_SECONDS"):
        monkeypatch.setattr(f"engine.fanout.worker.{pause}", 0.01)
    missing, blocks = threading.Semaphore(0), LandingLog.blocks

    def counted(log: LandingLog, *args: Any) -> Any:
        try:
            return blocks(log, *args)
        except RookeryError:
            missing.release()
            raise

    with open_rookery(tmp_path) as rookery, capture_logs() as lines:
        rookery.push(project("routed"))
        rookery.add("1")
        execute = rookery.workspace.warehouse.execute

        def slow(sql: str, *args: Any, **more: Any) -> None:
            execute(sql, *args, **more)
            # The worker looks for rows several times before the datasource is gone.
            for _ in range(3 if sql.startswith("DROP TABLE IF EXISTS `main`.`events`") else 0):
                assert missing.acquire(timeout=PATIENCE)

        monkeypatch.setattr(LandingLog, "blocks", counted)
        monkeypatch.setattr(rookery.workspace.warehouse, "execute", slow)
        resources.remove(rookery.workspace, "datasource", "events", force=True)
    assert [line for line in lines if line["log_level"] == "error"] == []
    assert rookery.router.worker("events") is None


def test_a_killed_removal_of_a_datasource_is_completed_by_a_push(tmp_path: Path) -> None:
    with open_rookery(tmp_path) as rookery:
        rookery.push(project("routed"))
        rookery.add("1")
        assert rookery.deliver(ROWS)
        rookery.run("DROP TABLE main.events SYNC")
    with open_rookery(tmp_path) as rookery:
        everything = frozenset(rookery.workspace.current.sources)
        push(rookery.workspace, {}, PushOptions(prune=True, allow=everything))
        assert rookery.router.worker("events") is None
        rookery.push(project("routed"))
        assert rookery.deliver(ROWS)
        assert rookery.differences(["1"]) == []
