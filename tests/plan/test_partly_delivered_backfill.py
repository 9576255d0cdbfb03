"""Views on a table that a recorded backfill has reached in part, while other views behind it failed."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

from engine.control import push
from engine.control.push import PushOptions
from engine.control.unfinished_history import deliver_unfinished
from engine.errors import RookeryError
from engine.workspace.journal import RegistryJournal
from engine.workspace.snapshot import DeployedFile
from tests.support.in_process import Rookery, open_rookery

EVENTS = """
tenant: tenant_id
columns:
  - {name: tenant_id, type: UInt32}
  - {name: n, type: Int64}
engine: {sorting_key: [tenant_id, n]}
"""
KEPT = """
sql: SELECT tenant_id, n FROM events
materialize: {target: kept, per_tenant: true, engine: {type: MergeTree, sorting_key: [tenant_id, n]}}
"""
AGAIN = """
sql: SELECT tenant_id, n FROM kept
materialize: {target: again, per_tenant: true, engine: {type: MergeTree, sorting_key: [tenant_id, n]}}
"""
RATIOS = """
sql: SELECT tenant_id, count() AS rows, sum(intDiv(100, n - %d)) AS ratio FROM %s GROUP BY tenant_id
materialize: {target: ratios, per_tenant: true, engine: {type: SummingMergeTree, sorting_key: [tenant_id]}}
"""
SUMS = """
sql: SELECT tenant_id, count() AS rows, sum(n) AS total FROM %s GROUP BY tenant_id
materialize: {target: sums, per_tenant: true, engine: {type: SummingMergeTree, sorting_key: [tenant_id]}}
"""
ROWS = [{"tenant_id": 1, "n": n} for n in range(10)]


def cases(*chosen: tuple[str, str]) -> pytest.MarkDecorator:
    """The placement of the tenant, and the source of the view that fails: what landing fills, or what that fills."""
    every = [
        pytest.param(*case, marks=[] if case in chosen else [pytest.mark.soak_only])
        for case in product(("pooled", "tables"), ("kept", "again"))
    ]
    return pytest.mark.parametrize(("rookery", "source"), every, indirect=["rookery"])


@pytest.fixture
def rookery(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rookery]:
    """The backfill into `kept` has stored its rows there, and has failed in the view that computes `ratios`."""
    with open_rookery(tmp_path) as opened:
        opened.push({"datasources/events.yaml": EVENTS})
        opened.add("1", placement=request.param)
        opened.append(ROWS[:5])
        opened.append(ROWS[5:])
        yield opened


def _database(rookery: Rookery) -> str:
    return "main" if rookery.workspace.current.tenants["1"].placement == "pooled" else rookery.nest("1")


def _push_and_fail(rookery: Rookery, files: dict[str, str]) -> None:
    with pytest.raises(RookeryError) as raised:
        rookery.push(files)
    assert raised.value.code.id == "RK3010"
    assert RegistryJournal(rookery.workspace.registry).outstanding()


def _counts(rookery: Rookery, table: str) -> int:
    return int(rookery.rows(f"SELECT sum(rows) FROM {_database(rookery)}.{table}")[0][0])


def _files(source: str, **more: str) -> dict[str, str]:
    """The project whose view on `source` fails, with other files."""
    chain = {"keep": KEPT} | ({"repeat": AGAIN} if source == "again" else {})
    return {f"pipes/{n}.yaml": text for n, text in (chain | {"fill_ratios": RATIOS % (7, source)} | more).items()}


def _push(rookery: Rookery, files: dict[str, str]) -> None:
    deployed = {Path(f).stem: DeployedFile(text, f) for f, text in files.items()}
    push.push(rookery.workspace, deployed, PushOptions(allow=frozenset({"ratios", "fill_ratios"})))
    deliver_unfinished(rookery.workspace)
    assert not RegistryJournal(rookery.workspace.registry).outstanding()


def _stored_in_part(rookery: Rookery, source: str) -> None:
    _push_and_fail(rookery, _files(source))
    assert rookery.rows(f"SELECT count() FROM {_database(rookery)}.{source}") == [(10,)], "nothing is stored in part"


@cases(("pooled", "again"))
def test_a_corrected_view_counts_each_row_once(rookery: Rookery, source: str) -> None:
    _stored_in_part(rookery, source)
    _push(rookery, _files(source, fill_ratios=RATIOS % (70, source), fill_sums=SUMS % source))
    rookery.append(ROWS[:1])
    assert (_counts(rookery, "ratios"), _counts(rookery, "sums")) == (11, 11)


@cases(("tables", "kept"), ("pooled", "again"))
def test_a_view_waits_for_the_rows_that_are_delivered_again(rookery: Rookery, source: str) -> None:
    _stored_in_part(rookery, source)
    _push_and_fail(rookery, _files(source, fill_sums=SUMS % source))
    _push(rookery, _files(source, fill_ratios=RATIOS % (70, source), fill_sums=SUMS % source))
    rookery.append(ROWS[:1])
    assert (_counts(rookery, "ratios"), _counts(rookery, "sums")) == (11, 11)
