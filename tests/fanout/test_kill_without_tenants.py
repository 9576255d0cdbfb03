"""A kill within an INSERT into an ordinary datasource: after the start every view has what the datasource has."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from engine.control.doctor import examine
from engine.control.recovery import finish
from engine.fanout.uncertain_batches import uncertain_batches_of
from engine.warehouse.port import Input
from tests.fanout.killed_append import Killing, killing_renames
from tests.fanout.test_uncertain_batches_without_tenants import _files, _rows, _send, _sums
from tests.support.in_process import open_rookery
from tests.support.soak import soaking

RENAMES = range(1, 20)
"""More than an INSERT makes: those of the copy, of the parts of three months, and of the views."""


@pytest.fixture(scope="module")
def killing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Killing]:
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    with Killing(killing_renames(tmp_path_factory.mktemp("renames"))) as process:
        yield process


@pytest.mark.parametrize(
    ("engine", "key", "sample"),
    [("MergeTree", "id", (5, 9)), ("ReplacingMergeTree", "day", (4, 8))],
    ids=["rows", "replaced rows"],
)
@pytest.mark.soak
def test_views_match_the_datasource_after_a_kill(
    killing: Killing, tmp_path: Path, engine: str, key: str, sample: Sequence[int]
) -> None:
    """The kills come before renames: before all of them in `make soak`, and otherwise before a sample."""
    with open_rookery(tmp_path) as rookery:
        rookery.push(_files(engine, key))
        _send(rookery, _rows())
    sent, killed, partly = 9, 0, 0
    for when in RENAMES if soaking() else sample:
        body = "\n".join(map(json.dumps, _rows()))
        died = killing.append(tmp_path, "plain", f"key {when}", body, str(when))
        sent += 9
        with open_rookery(tmp_path) as rookery:
            ((before, reached),) = rookery.rows(
                "SELECT (SELECT count() FROM main.plain), (SELECT sum(rows) FROM main.sums)"
            )
            finish(rookery.workspace)
            assert not uncertain_batches_of(rookery.workspace).outstanding()
            ((after,),) = rookery.rows("SELECT count() FROM main.plain")
            partly += before != after or reached != rookery.rows("SELECT sum(rows) FROM main.sums")[0][0]
            assert _sums(rookery) in ({(sent, sent // 9 * 36)}, {(sent - 9, (sent // 9 - 1) * 36)}), when
            result = rookery.gateway.append("plain", body.encode(), Input.NDJSON, key=f"key {when}").result(60)
            assert result.rows == 9
            assert _sums(rookery) == {(sent, sent // 9 * 36)}, when
            if engine == "MergeTree":
                assert rookery.rows("SELECT count(), uniqExact(id) FROM main.plain") == [(sent, sent)]
            assert [f for f in examine(rookery.workspace).findings if f.level == "error"] == []
        killed += died
        if not died:
            break
    assert killed > 1
    assert partly > 0, "no kill has left a batch in part"
