"""Rows that a tenant's tables refuse do not change what other senders in the same batch learn about theirs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from engine.ingest.batch import AppendResult
from tests.ingest.waiting_appends import appends, line, results
from tests.support.in_process import Rookery, open_rookery

EVENTS = """\
tenant: {column: tenant_id, fanout: FANOUT}
columns:
  - {name: tenant_id, type: UInt32}
  - {name: note, type: String}
engine: {sorting_key: [tenant_id]}
"""
NUMBERS = """\
tenant: {column: tenant_id, landing: false}
columns:
  - {name: tenant_id, type: UInt32}
  - {name: number, type: UInt32}
engine: {sorting_key: [tenant_id]}
"""
FILL = """\
sql: SELECT tenant_id, toUInt32(note) AS number FROM events
materialize: {target: numbers, per_tenant: true}
"""
TABLES, POOLED = ("1", "2"), ("3", "4")
GOOD, BAD = line(note="7"), line(note="seven")


@pytest.fixture(params=["direct", "routed"])
def rookery(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rookery]:
    with open_rookery(tmp_path_factory.mktemp("visibility")) as opened:
        opened.push(
            {
                "datasources/events.yaml": EVENTS.replace("FANOUT", request.param),
                "datasources/numbers.yaml": NUMBERS,
                "pipes/fill_numbers.yaml": FILL,
            }
        )
        opened.add(*TABLES, placement="tables")
        opened.add(*POOLED, placement="pooled")
        yield opened


def visible(rookery: Rookery, bodies: dict[str, bytes]) -> dict[str, bool]:
    """Which tenants are informed that their rows can be read, if they send these bodies at the same time."""
    answers = dict(zip(bodies, results(rookery, appends("events", [*bodies.items()])), strict=True))
    assert all(isinstance(answer, AppendResult) and answer.rows == 1 for answer in answers.values()), answers
    return {t: a.visible is None or a.visible.result(60) for t, a in answers.items() if isinstance(a, AppendResult)}


def test_only_the_sender_of_rows_that_a_view_refuses_gets_false(rookery: Rookery) -> None:
    everyone = dict.fromkeys((*TABLES, *POOLED), GOOD)
    expected = dict.fromkeys(everyone, True)
    assert visible(rookery, everyone) == expected
    for failing in ("2", "4"):
        expected[failing] = False
        assert visible(rookery, {**everyone, failing: BAD}) == expected
        assert visible(rookery, everyone) == expected
