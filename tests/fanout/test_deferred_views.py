"""A view that would get rows twice waits until its tenant has caught up, is reported meanwhile, and is then created."""

from __future__ import annotations

import itertools
import time
from contextlib import ExitStack
from pathlib import Path

from engine.control.deferred_views import deferred_of
from engine.control.doctor import examine
from engine.control.push import push
from engine.errors import VIEW_WAITS
from engine.workspace.journal import DEFERRED_KIND
from engine.workspace.snapshot import DeployedFile
from tests.support.in_process import PATIENCE, Rookery, open_rookery

EVENTS = """
tenant: {column: tenant_id, fanout: routed}
columns: [{name: tenant_id, type: UInt32}, {name: id, type: UInt32}, {name: n, type: Int64}]
engine: {sorting_key: [tenant_id]}
"""
SUMS = """
tenant: {column: tenant_id, landing: false}
columns: [{name: tenant_id, type: UInt32}, {name: v, type: Int64}]
engine: {type: SummingMergeTree, sorting_key: [tenant_id], columns: [v]}
"""
FILL = """
sql: SELECT tenant_id, sum(n) AS v FROM events GROUP BY tenant_id
materialize: {target: sums, per_tenant: true}
"""
PASS_ON = """
sql: SELECT tenant_id, v FROM sums
materialize: {target: further, per_tenant: true}
"""
FILES = {"datasources/events.yaml": EVENTS, "datasources/sums.yaml": SUMS, "pipes/fill.yaml": FILL}
MORE = {"datasources/further.yaml": SUMS, "pipes/pass_on.yaml": PASS_ON}
_IDS = itertools.count(1)


def _send(rookery: Rookery) -> bool:
    return rookery.deliver([{"tenant_id": t, "id": next(_IDS), "n": 1} for t in (5, 6)])


def _found(rookery: Rookery) -> list[tuple[str, str]]:
    """What the doctor says of views."""
    findings = examine(rookery.workspace).findings
    return [(f.check, f.object) for f in findings if f.check in ("deferred-view", "drift")]


def _wait_for_views(rookery: Rookery) -> None:
    deadline = time.monotonic() + PATIENCE
    while rookery.workspace.registry.read(DEFERRED_KIND):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_view_over_a_rollup_is_created_when_its_tenant_has_caught_up(tmp_path: Path) -> None:
    with ExitStack() as stack:
        rookery = stack.enter_context(open_rookery(tmp_path))
        deferred_of(rookery.workspace)
        rookery.push(FILES)
        rookery.add("5", "6")
        assert _send(rookery)
        # The view on the nest's copy throws once: the rows will be delivered to the rollup again.
        rookery.run(f"ALTER TABLE {rookery.nest('5')}.sums ADD CONSTRAINT once CHECK v < 0")
        assert not _send(rookery)
        result = push(rookery.workspace, {Path(f).stem: DeployedFile(t, f) for f, t in MORE.items()})
        assert [w.code for w in result.warnings] == [VIEW_WAITS]
        assert _found(rookery) == [("deferred-view", "main_nest_5._rk_pass_on")]
        assert _send(rookery) is False
        thread = deferred_of(rookery.workspace)._thread
        assert thread is not None and thread.is_alive()
        stack.close()
        rookery = stack.enter_context(open_rookery(tmp_path))
        deferred_of(rookery.workspace)
        rookery.run(f"ALTER TABLE {rookery.nest('5')}.sums DROP CONSTRAINT once")
        rookery.router.retry_now()
        _wait_for_views(rookery)
        rookery.wait_until_read()
        assert _send(rookery)
        for tenant, table in itertools.product(("5", "6"), ("sums", "further")):
            assert rookery.rows(f"SELECT sum(v) FROM {rookery.nest(tenant)}.{table}") == [(4,)], (tenant, table)
        assert _found(rookery) == []
