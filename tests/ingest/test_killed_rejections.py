"""A kill after bad rows were quarantined and before the receipt: the repeated request quarantines them once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

from engine.compiler import storage
from engine.ingest.batch import AppendResult
from engine.warehouse.port import Input
from tests.fanout.killed_append import Killing
from tests.support.in_process import PATIENCE, Rookery, open_rookery

SOURCE = """
columns:
  - {name: tenant_id, type: UInt32}
  - {name: units, type: UInt64}
engine: {sorting_key: [tenant_id, units]}
"""
FILES = {"datasources/events.yaml": "tenant: tenant_id" + SOURCE, "datasources/plain.yaml": SOURCE.lstrip()}
BODY = "\n".join(json.dumps({"tenant_id": 1, "units": units}) for units in (1, "many", 3, "none"))
ONLY_BAD = json.dumps({"tenant_id": 1, "units": "many"})
BODIES = {"some bad": BODY, "only bad": ONLY_BAD}
DATASOURCES = ("events", "plain")


def _quarantined(rookery: Rookery, datasource: str) -> int:
    return int(rookery.rows(f"SELECT count() FROM main.{datasource}_quarantine")[0][0])


def _send(rookery: Rookery, datasource: str, body: str, key: str | None) -> AppendResult:
    return rookery.gateway.append(datasource, body.encode(), Input.NDJSON, key=key).result(PATIENCE)


@pytest.fixture(scope="module")
def killing() -> Iterator[Killing]:
    with Killing() as process:
        yield process


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory in which both datasources have rows in quarantine."""
    directory = tmp_path_factory.mktemp("prepared")
    with pytest.MonkeyPatch.context() as patched:
        # The retry must not depend on the table's memory of tokens, which other requests use up.
        patched.setattr(storage, "NEST_DEDUP_WINDOW", 1)
        with open_rookery(directory) as rookery:
            rookery.push(FILES)
            for datasource in DATASOURCES:
                _send(rookery, datasource, BODY, f"earlier {datasource}")
                _send(rookery, datasource, BODY, None)
        yield directory


@pytest.mark.parametrize(
    ("datasource", "body", "moment"),
    [
        pytest.param(
            datasource,
            BODIES[body],
            f"{moment} Receipts.write",
            id=f"{datasource}-{body}-{moment}",
            marks=[] if (number in (0, 3, 5)) else [pytest.mark.soak_only],
        )
        for number, (datasource, body, moment) in enumerate(product(DATASOURCES, BODIES, ("before", "after")))
    ],
)
def test_a_repeated_request_quarantines_its_rows_once(
    killing: Killing, tmp_path: Path, prepared: Path, datasource: str, body: str, moment: str
) -> None:
    shutil.copytree(prepared, tmp_path, symlinks=True, dirs_exist_ok=True)
    assert killing.append(tmp_path, datasource, "a key", body, moment)
    bad = body.count('"units": "')
    with open_rookery(tmp_path) as rookery:
        if datasource == "events" and moment.startswith("before"):
            assert _quarantined(rookery, datasource) == 4
        _send(rookery, datasource, ONLY_BAD, "another key")
        result = _send(rookery, datasource, body, "a key")
        assert (result.rows, result.quarantined) == (len(body.splitlines()) - bad, bad)
        assert _quarantined(rookery, datasource) == 4 + 1 + bad
        assert rookery.rows(f"SELECT count() FROM main.{datasource}") == [(4 + result.rows,)]
    with open_rookery(tmp_path) as rookery:
        assert _send(rookery, datasource, body, "a key").repeated or datasource == "plain"
        assert _quarantined(rookery, datasource) == 4 + 1 + bad
