"""Batches of several tenants, for each type that a tenant column can have."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from engine.ingest.batch import AppendResult
from tests.ingest.waiting_appends import appends, line, results
from tests.support.in_process import Rookery, open_rookery

IDS = {
    "UInt8": ["0", "1", "255"],
    "UInt64": ["1", "9007199254740993", "18446744073709551615"],
    "Int64": ["-9223372036854775808", "0", "7"],
    "Int256": ["-1", "0", "123456789"],
    "String": ["a", "q\"\\'u`{p:String}", "ü", "NULL", "\\N", "1", "true"],
    "LowCardinality(String)": ["a", "b", "null"],
    "UUID": [f"00000000-0000-0000-0000-00000000000{n}" for n in range(3)],
}
FURTHER = ("UInt8", "Int64")
"""Types that the code handles like wider ones."""
DATASOURCE = """\
columns:
  - {{name: tenant_id, type: {type}}}
  - {{name: id, type: String}}
tenant: {{column: tenant_id}}
engine: {{sorting_key: [tenant_id, id]}}
"""


@pytest.fixture(
    scope="module", params=[pytest.param(t, marks=[pytest.mark.soak_only] if t in FURTHER else []) for t in IDS]
)
def rookery(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Rookery, list[str]]]:
    with open_rookery(tmp_path_factory.mktemp("types")) as opened:
        opened.push({"datasources/events.yaml": DATASOURCE.format(type=request.param)})
        yield opened, IDS[request.param]


def test_each_row_gets_the_tenant_of_its_token(rookery: tuple[Rookery, list[str]]) -> None:
    opened, ids = rookery
    rows = [(id, f"{n:02} {id}") for n, id in enumerate(ids * 2)]
    sent = appends("events", [(t, line(id=id) + b"\n" + line(id=id + " named", tenant_id=t)) for t, id in rows])
    answers = results(opened, sent)
    assert [a.rows if isinstance(a, AppendResult) else a for a in answers] == [2] * len(rows)
    assert len({a.batch for a in answers if isinstance(a, AppendResult)}) == 1
    stored = opened.rows("SELECT toString(tenant_id), id FROM main.events ORDER BY id")
    assert stored == sorted(
        ((t, id + more) for t, id in rows for more in ("", " named")), key=lambda r: r[1].encode()
    )
