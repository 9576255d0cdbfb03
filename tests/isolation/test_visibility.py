"""Rows that a tenant's tables refuse do not change what other senders in the same batch learn about theirs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from engine.errors import RookeryError
from engine.ingest.batch import Append, AppendResult
from engine.warehouse.port import Input
from tests.ingest.waiting_appends import appends, line, results
from tests.support.in_process import Rookery, open_copy, open_rookery

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


@pytest.fixture(scope="module", params=["direct", "routed"])
def prepared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("visibility")
    with open_rookery(directory) as opened:
        opened.push(
            {
                "datasources/events.yaml": EVENTS.replace("FANOUT", request.param),
                "datasources/numbers.yaml": NUMBERS,
                "pipes/fill_numbers.yaml": FILL,
            }
        )
        opened.add(*TABLES, placement="tables")
        opened.add(*POOLED, placement="pooled")
    return directory


@pytest.fixture
def rookery(prepared: Path, tmp_path: Path) -> Iterator[Rookery]:
    with open_copy(prepared, tmp_path) as opened:
        yield opened


def told_visible(answers: Sequence[AppendResult | RookeryError], rows: int = 1) -> list[bool]:
    """Which appends are informed that their rows can be read."""
    stored = [answer for answer in answers if isinstance(answer, AppendResult)]
    assert [answer.rows for answer in stored] == [rows] * len(answers), answers
    return [answer.visible is None or answer.visible.result(60) for answer in stored]


def visible(rookery: Rookery, bodies: dict[str, bytes]) -> dict[str, bool]:
    """Which tenants are informed that their rows can be read, if they send these bodies at the same time."""
    answers = results(rookery, appends("events", [*bodies.items()]))
    return dict(zip(bodies, told_visible(answers), strict=True))


def test_only_the_sender_of_rows_that_a_view_refuses_gets_false(rookery: Rookery) -> None:
    everyone = dict.fromkeys((*TABLES, *POOLED), GOOD)
    expected = dict.fromkeys(everyone, True)
    assert visible(rookery, everyone) == expected
    for failing in ("2", "4"):
        expected[failing] = False
        assert visible(rookery, {**everyone, failing: BAD}) == expected
        assert visible(rookery, everyone) == expected


def test_senders_without_a_tenant_depend_only_on_the_tenants_of_their_rows(rookery: Rookery) -> None:
    def sent(token: str, *tenants: str, note: str = "7") -> Append:
        # Two rows, so that an append's position is not the number of its row.
        rows = [line(tenant_id=int(t), note=note) for t in (*tenants, tenants[0])[:2]]
        return Append("events", b"\n".join(rows), Input.NDJSON, token=token)

    def told(*batch: Append) -> list[bool]:
        answers = results(rookery, batch)
        assert len({answer.batch for answer in answers if isinstance(answer, AppendResult)}) == 1
        return told_visible(answers, rows=2)

    for failing in ("2", "4"):
        other = {"2": "1", "4": "3"}[failing]
        told_visible(results(rookery, [sent("bad", failing, note="seven")]), rows=2)
        batch = [sent("a", other), sent("b", failing), sent("c", other, failing), sent("d", "1", "3")]
        assert told(*batch) == [True, False, False, True]
