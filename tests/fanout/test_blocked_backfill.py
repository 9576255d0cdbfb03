"""A backfill that cannot be delivered is reported every time, until its cause is fixed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.control.push import PushOptions, push
from engine.errors import RookeryError
from engine.workspace.snapshot import DeployedFile
from tests.support.in_process import Rookery, open_rookery

EVENTS = """
tenant: tenant_id
columns: [{name: tenant_id, type: UInt32}, {name: id, type: UInt32}, {name: n, type: Int64}, {name: k, type: String}]
engine: {sorting_key: [tenant_id]}
"""
SUMS = """
tenant: {column: tenant_id, landing: false}
columns: [{name: tenant_id, type: UInt32}, {name: v, type: Int64}]
engine: {type: SummingMergeTree, sorting_key: [tenant_id], columns: [v]}
"""
FILL = """
sql: SELECT tenant_id, sum(toInt64(k)) AS v FROM events GROUP BY tenant_id
materialize: {target: sums, per_tenant: true}
"""
SHARED = FILL.replace(", per_tenant: true", "")
ROWS = [{"tenant_id": t, "id": n, "n": n, "k": k} for n, (t, k) in enumerate([(5, "bad"), (5, "4"), (6, "3")])]


@pytest.fixture
def rookery(tmp_path: Path) -> Iterator[Rookery]:
    with open_rookery(tmp_path) as opened:
        opened.push({"datasources/events.yaml": EVENTS})
        opened.append(ROWS)
        yield opened


def _push(rookery: Rookery, fill: str, *allow: str) -> list[str]:
    files = {"datasources/sums.yaml": SUMS, "pipes/fill.yaml": fill}
    sources = {Path(f).stem: DeployedFile(text, f) for f, text in files.items()}
    return [w.code.id for w in push(rookery.workspace, sources, PushOptions(allow=frozenset(allow))).warnings]


@pytest.mark.proves("B7", "D4")
@pytest.mark.parametrize("placement", ["tables", "pooled"])
def test_a_tenant_is_not_ready_before_its_history_is_delivered(rookery: Rookery, placement: str) -> None:
    rookery.push({"datasources/sums.yaml": SUMS, "pipes/fill.yaml": FILL})
    for _ in range(2):
        with pytest.raises(RookeryError, match="RK3010"):
            rookery.add("5", placement=placement)
        assert rookery.workspace.current.tenants["5"].state == "adding"
    rookery.add("6", placement=placement)
    assert "RK3010" in _push(rookery, FILL)
    rookery.run("ALTER TABLE main.events UPDATE k = '1' WHERE k = 'bad' SETTINGS mutations_sync = 2")
    if placement == "tables":
        rookery.run(
            f"ALTER TABLE {rookery.nest('5')}.events UPDATE k = '1' WHERE k = 'bad' SETTINGS mutations_sync = 2"
        )
    rookery.add("5", placement=placement)
    assert rookery.workspace.current.tenants["5"].state == "ready"
    where = f"{rookery.nest('5')}.sums" if placement == "tables" else "main.sums WHERE tenant_id = 5"
    assert rookery.rows(f"SELECT sum(v) FROM {where}") == [(5,)]
    assert _push(rookery, FILL) == []


@pytest.mark.proves("B7")
def test_a_push_fails_until_the_history_of_shared_targets_is_delivered(rookery: Rookery) -> None:
    for _ in range(2):
        with pytest.raises(RookeryError, match="RK3010"):
            _push(rookery, SHARED)
    _push(rookery, SHARED.replace("toInt64(k)", "toInt64OrZero(k)"), "fill", "sums")
    assert rookery.rows("SELECT sum(v) FROM main.sums") == [(7,)]
