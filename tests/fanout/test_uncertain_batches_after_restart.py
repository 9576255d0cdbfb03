"""Uncertain batches after a restart, and views that fail before anything is stored; each test has its own engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.control.recovery import finish
from engine.errors import IN_DOUBT, OVERLOADED
from engine.fanout import insert_failures, uncertain_batches
from engine.fanout.suspension_records import suspended
from engine.fanout.uncertain_batches import uncertain_batches_of
from tests.fanout.test_uncertain_batches import _IDS, REFUSED, TAKEN, _assert_complete, _code, _made, _rows
from tests.support.in_process import open_rookery


def test_a_batch_stays_uncertain_over_restarts(tmp_path: Path) -> None:
    """It still fails at two starts; between them another program inserts rows into landing."""
    rows = _rows()
    with open_rookery(tmp_path) as rookery:
        _made(rookery, "direct")
        rookery.run(REFUSED.format("main.sums"))
        _code(rookery, rows, "a key")
        # On a busy machine, the view may be refused before landing's part is stored.
        while not uncertain_batches_of(rookery.workspace).outstanding():
            _code(rookery, rows, "a key")
    for _ in range(2):
        with open_rookery(tmp_path) as rookery:
            finish(rookery.workspace)
            assert _code(rookery, rows, "a key") == IN_DOUBT.id
            assert _code(rookery, _rows()) == IN_DOUBT.id
            uncertain_batches_of(rookery.workspace).close()
            rookery.run(TAKEN.format("main.sums"))
            for _ in range(20):
                insert = "INSERT INTO main.events (tenant_id, id, n) SETTINGS deduplicate_insert = 'disable' "
                rookery.run(f"{insert} SELECT 9, {next(_IDS)}, 1")
            rookery.run(REFUSED.format("main.sums"))
    with open_rookery(tmp_path) as rookery:
        rookery.run(TAKEN.format("main.sums"))
        finish(rookery.workspace)
        assert rookery.append(rows, key="a key").repeated
        assert rookery.deliver(_rows())
        _assert_complete(rookery)


def test_a_view_that_fails_before_anything_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without nests' views on landing the engine fails early; the view must not stop all writers permanently."""
    monkeypatch.setattr(insert_failures, "RETRY_TIMEOUT_SECONDS", 0.0)
    monkeypatch.setattr(uncertain_batches, "MIN_RETRY_SECONDS", 0.0)
    with open_rookery(tmp_path) as rookery:
        _made(rookery, "routed")
        rookery.run(REFUSED.format("main.sums"))
        rows = _rows()
        for _ in range(insert_failures.MAX_TRIES):
            assert _code(rookery, rows, "early") == OVERLOADED.id
        assert rookery.append(rows, key="early").rows == len(rows)
        assert [v["view"] for v in suspended(rookery.workspace)] == ["main._rk_add_to_sums"]
        rookery.run(TAKEN.format("main.sums"))
        rookery.push({})
        _assert_complete(rookery)
