"""Rows on which a shared view fails: only the tenants of these rows are excluded from it."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.compiler.storage import BATCH_COLUMN
from engine.control import fanout_status
from engine.control.push import PushOptions, PushResult, push
from engine.errors import RookeryError
from engine.fanout.failing_tenants import MAX_EXCLUDED_TENANTS
from engine.fanout.landing_log import LandingLog
from engine.fanout.offsets import LogRange
from engine.fanout.startup_recovery import complete
from engine.fanout.suspension_records import tenants_behind
from engine.plan.backfill import MissedBlocks, missing_ranges
from engine.schema import Name
from engine.warehouse import ddl
from engine.warehouse.catalog import read_schema
from engine.warehouse.errors import translate
from engine.warehouse.port import Input
from engine.workspace.snapshot import DeployedFile
from tests.support.in_process import Rookery, open_copy, open_rookery
from tests.support.soak import soaking

EVENTS = """\
tenant: {column: tenant_id, fanout: %s}
columns:
  - {name: tenant_id, type: UInt32}
  - {name: id, type: UInt64}
  - {name: n, type: Int64}
engine: {sorting_key: [tenant_id, id]}
"""
SHARES = """\
nodes:
  - {name: it, sql: "SELECT tenant_id, sum(intDiv(100, %s)) AS share, count() AS events FROM events GROUP BY tenant_id"}
materialize: {target: %s, per_tenant: %s, engine: {type: SummingMergeTree, sorting_key: [tenant_id]}}
"""
FOR_ALL = """\
shared: true
columns:
  - {name: tenant_id, type: UInt32}
  - {name: share, type: Int64}
  - {name: events, type: UInt64}
engine: {type: SummingMergeTree, sorting_key: [tenant_id]}
"""
TOTALS = """\
nodes:
  - {name: it, sql: "SELECT tenant_id, count() AS events FROM events GROUP BY tenant_id"}
materialize: {target: totals, per_tenant: true, engine: {type: SummingMergeTree, sorting_key: [tenant_id]}}
"""
OWN = [str(t) for t in range(1, 31)]
_ids = itertools.count(1)


def _files(fanout: str, divisor: str = "n") -> dict[str, str]:
    return {
        "datasources/events.yaml": EVENTS % fanout,
        "pipes/pooled_shares.yaml": SHARES % (divisor, "pooled", "true"),
        "pipes/all_shares.yaml": SHARES % (divisor, "for_all", "false"),
        "datasources/for_all.yaml": FOR_ALL,
        "pipes/totals_pipe.yaml": TOTALS,
    }


# Shared views are on landing in both modes.
@pytest.fixture(params=["direct", pytest.param("routed", marks=pytest.mark.soak_only)], scope="module")
def prepared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the project and its tenants, of which each test gets a copy."""
    directory = tmp_path_factory.mktemp(request.param)
    with open_rookery(directory) as opened:
        opened.push(_files(request.param))
        opened.add(*OWN, placement="pooled")
        opened.add("100")
    return directory


@pytest.fixture
def rookery(prepared: Path, tmp_path: Path) -> Iterator[Rookery]:
    with open_copy(prepared, tmp_path) as opened:
        yield opened


def _rows(tenants: Iterable[str], n: int = 5) -> list[dict[str, int]]:
    return [{"tenant_id": int(t), "id": next(_ids), "n": n} for t in tenants]


def _lacking(rookery: Rookery, target: str) -> set[str]:
    """Tenants whose rows in a shared target differ from landing."""
    rows = rookery.rows(
        "SELECT toString(tenant_id), l.1, t.1 FROM "
        "(SELECT tenant_id, (count(), sum(if(n = 0, 0, intDiv(100, greatest(n, 1))))) AS l FROM main.events "
        "WHERE tenant_id != 100 GROUP BY tenant_id) AS a "
        f"LEFT JOIN (SELECT tenant_id, (sum(events), sum(share)) AS t FROM main.{target} GROUP BY tenant_id) AS b "
        "USING tenant_id WHERE l != t"
    )
    return {row[0] for row in rows}


def _excluded(rookery: Rookery) -> dict[str, list[str]]:
    return {v["view"]: v["without"] for v in fanout_status.status(rookery.workspace)["suspended"]}


def _push(rookery: Rookery, files: dict[str, str], *allow: str) -> PushResult:
    sources = {Path(f).stem: DeployedFile(text, f) for f, text in files.items()}
    return push(rookery.workspace, sources, PushOptions(allow=frozenset(allow)))


@pytest.mark.proves("D4")
def test_only_the_tenants_of_failing_rows_are_excluded(rookery: Rookery) -> None:
    assert rookery.deliver(_rows([*OWN, "100"]))
    assert not rookery.deliver([*_rows([*OWN, "100"]), *_rows(["7", "19"], n=0)])
    views = ("main._rk_pooled_shares", "main._rk_all_shares")
    assert _excluded(rookery) == {v: ["19", "7"] for v in views}
    assert _lacking(rookery, "pooled") == _lacking(rookery, "for_all") == {"7", "19"}

    assert not rookery.deliver(_rows(["1", "19"])) and rookery.deliver(_rows(["1", "2"]))
    assert not rookery.deliver(_rows(["1", "7"])) and not rookery.deliver(_rows(["7"]))

    # Another tenant joins them. Excluded tenants stay excluded, even with good rows.
    assert rookery.append([*_rows(["7", "8"]), *_rows(["8"], n=0)]).rows == 3
    assert rookery.append(_rows(["7", "9", "100"])).rows == 3
    assert _excluded(rookery) == {v: ["19", "7", "8"] for v in views}
    assert _lacking(rookery, "pooled") == _lacking(rookery, "for_all") == {"7", "8", "19"}
    assert rookery.rows("SELECT sum(events) FROM main.totals") == rookery.rows(
        "SELECT count() FROM main.events WHERE tenant_id != 100"
    )
    errors = {t for t, lag in fanout_status.lags(rookery.workspace).items() if lag.error}
    assert errors == {"7", "8", "19"}
    rookery.wait_until_read()
    assert rookery.differences(["100"], []) == []


def test_tenants_behind_are_those_of_every_suspended_view(rookery: Rookery) -> None:
    def behind(datasource: str, *records: tuple[str, str | None, list[str]]) -> frozenset[str] | None:
        bodies = [dict(zip(("datasource", "tenant", "without"), record, strict=True)) for record in records]
        suspended = {f"view {n}": body for n, body in enumerate(bodies)}
        return tenants_behind(replace(rookery.workspace.current, suspended=suspended), datasource)

    views = (("events", None, ["7", "8"]), ("events", None, ["9"]), ("events", "100", []), ("others", None, ["1"]))
    assert behind("events", *views) == {"7", "8", "9", "100"}
    assert behind("events", *views, ("events", None, [])) is None, "that of all tenants"
    assert behind("events", *views, ("others", None, [])) == {"7", "8", "9", "100"}
    assert behind("plain", *views) == set()


def test_batches_that_arrive_otherwise_are_not_delivered_to_a_restored_view(rookery: Rookery) -> None:
    """Neither those before its gap nor those after it; and the landing log skips several batches at once."""
    for tenant in ("1", "2", "3", "4", "5"):
        assert rookery.deliver(_rows([tenant]))
    batches = rookery.rows(
        f"SELECT _block_number, any({BATCH_COLUMN}), toString(any(tenant_id)) FROM main.events GROUP BY 1 ORDER BY 1"
    )
    warehouse = rookery.workspace.warehouse
    view = read_schema(warehouse, "main").views[Name("main", "_rk_totals_pipe")]
    missed = MissedBlocks(view, batches[2][0], (batches[0][1], batches[1][1]))

    def delivered(*without: int) -> set[str]:
        ranges = missing_ranges(warehouse, missed, without={batches[n][1] for n in without})
        return {tenant for number, _, tenant in batches if any(after < number <= upto for after, upto in ranges)}

    assert delivered() == {"1", "2", "4", "5"}
    assert (delivered(0), delivered(1), delivered(0, 1)) == ({"2", "4", "5"}, {"1", "4", "5"}, {"4", "5"})
    assert (delivered(3), delivered(4), delivered(1, 3, 4)) == ({"1", "2", "5"}, {"1", "2", "4"}, {"1"})
    log = LandingLog(warehouse, "main", rookery.workspace.current.build.relations["events"])
    skipped = tuple(batches[n][1] for n in (0, 2, 4))
    assert log.tenants(LogRange("", 0, batches[-1][0], skipped=skipped)) == {"2", "4"}


def test_tenants_whose_rows_fail_in_a_batch_of_their_own_stop_no_view_for_others(rookery: Rookery) -> None:
    assert rookery.deliver(_rows(OWN))
    assert not rookery.deliver(_rows(["7", "19"], n=0))
    assert _excluded(rookery) == {v: ["19", "7"] for v in ("main._rk_pooled_shares", "main._rk_all_shares")}
    assert rookery.deliver(_rows(["1", "2"]))
    assert _lacking(rookery, "pooled") == _lacking(rookery, "for_all") == {"7", "19"}


def test_a_failed_repair_changes_nothing_and_a_fixed_pipe_has_every_row(rookery: Rookery) -> None:
    rookery.append([*_rows(OWN), *_rows(["7"], n=0)])
    before = rookery.rows("SELECT * FROM main.pooled FINAL ORDER BY tenant_id")
    result = _push(rookery, {})
    assert sorted(w.code.id for w in result.warnings) == ["RK3012", "RK3012"] and not result.plan
    assert rookery.rows("SELECT * FROM main.pooled FINAL ORDER BY tenant_id") == before
    assert rookery.append(_rows(["1"])).rows == 1 and _lacking(rookery, "pooled") == {"7"}

    mended = _files("direct", "if(n = 0, 1000, n)")
    del mended["datasources/events.yaml"]
    _push(rookery, mended, "pooled_shares", "all_shares")
    assert _excluded(rookery) == {}
    assert _lacking(rookery, "pooled") == _lacking(rookery, "for_all") == set()
    assert rookery.deliver(_rows(["7"]))
    assert rookery.deliver(_rows(OWN, n=0))
    assert _lacking(rookery, "pooled") == _lacking(rookery, "for_all") == set()


def test_an_empty_push_includes_tenants_whose_failing_rows_are_deleted(rookery: Rookery) -> None:
    rookery.append([*_rows(OWN), *_rows(["7"], n=0)])
    rookery.run("ALTER TABLE main.events DELETE WHERE n = 0 SETTINGS mutations_sync = 2")
    result = _push(rookery, {})
    assert not result.warnings and result.plan
    assert _excluded(rookery) == {} and _lacking(rookery, "pooled") == _lacking(rookery, "for_all") == set()
    assert rookery.deliver(_rows(OWN))
    assert _lacking(rookery, "pooled") == _lacking(rookery, "for_all") == set()


def test_a_shortage_excludes_no_tenant_from_a_view(rookery: Rookery, monkeypatch: pytest.MonkeyPatch) -> None:
    execute, rows = rookery.workspace.warehouse.execute, [*_rows(["1", "2"]), *_rows(["7"], n=0)]

    def short(sql: str, *args: Any, **more: Any) -> None:
        if sql.startswith("INSERT INTO FUNCTION null"):
            raise translate(RuntimeError("Code: 241. DB::Exception: (total) memory limit exceeded"))
        execute(sql, *args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(rookery.workspace.warehouse, "execute", short)
        with pytest.raises(RookeryError) as refused:
            rookery.append(rows)
    assert refused.value.code.status == 503
    assert _excluded(rookery) == {}
    assert rookery.append(_rows(["1", "2"])).rows == 2
    assert _excluded(rookery) == {v: ["7"] for v in ("main._rk_pooled_shares", "main._rk_all_shares")}
    assert _lacking(rookery, "pooled") == {"7"}


def test_a_view_that_fails_for_all_tenants_is_suspended(rookery: Rookery) -> None:
    many = OWN[: MAX_EXCLUDED_TENANTS + 1]
    rookery.append([*_rows(OWN), *_rows(many, n=0)])
    assert _excluded(rookery) == {"main._rk_pooled_shares": [], "main._rk_all_shares": []}
    assert not rookery.deliver(_rows(["30"]))
    assert rookery.rows("SELECT sum(events) FROM main.totals") == [(len(OWN) + len(many) + 1,)]


def test_the_suspension_of_a_removed_view_is_deleted(rookery: Rookery) -> None:
    rookery.append([*_rows(OWN), *_rows(["7"], n=0)])
    files = {f: t for f, t in _files("direct").items() if "shares" not in f and "events" not in f}
    options = PushOptions(prune=True, allow=frozenset({"pooled_shares", "all_shares", "pooled", "for_all"}))
    events = rookery.workspace.current.sources["events"]
    push(
        rookery.workspace, {"events": events, **{Path(f).stem: DeployedFile(t, f) for f, t in files.items()}}, options
    )
    assert _excluded(rookery) == {} and rookery.deliver(_rows(["7"]))


def test_a_killed_insert_is_completed_without_failing_rows(rookery: Rookery) -> None:
    """The rows are in landing under their token, but in no target: the state after a kill between the two inserts."""
    rookery.append(_rows(OWN))
    insert = ddl.insert_block("main.events", ["tenant_id", "id", "n"], "g:killed", "SELECT %s")
    with pytest.raises(RookeryError, match="Division by zero"):
        rookery.run(insert % "arrayJoin([1, 7]) AS t, 1000 + t, if(t = 7, 0, 5)")
    assert _lacking(rookery, "pooled") == {"1", "7"}
    complete(rookery.workspace)
    assert _excluded(rookery) == {"main._rk_pooled_shares": ["7"], "main._rk_all_shares": ["7"]}
    assert _lacking(rookery, "pooled") == _lacking(rookery, "for_all") == {"7"}
    assert rookery.rows("SELECT sum(events) FROM main.totals") == [(len(OWN) + 2,)]


@pytest.mark.proves("B6")
@pytest.mark.soak
def test_tenants_added_while_views_fail_have_every_row_once(rookery: Rookery) -> None:
    """A block that is tried again is not history meanwhile."""
    count = 4 if soaking() else 2
    later, pooled = [str(101 + n) for n in range(count)], [str(201 + n) for n in range(count)]
    ending, poisoned = threading.Event(), iter(OWN[:12])

    def stream() -> None:
        # A pause, so that the writer leaves the processor to the code under test.
        while not ending.wait(0.05):
            one = next(poisoned, None)
            rookery.append([*_rows([*OWN, *later, *pooled]), *(_rows([one], n=0) if one else ())])

    thread = threading.Thread(target=stream)
    thread.start()
    for own, other in zip(later, pooled, strict=True):
        rookery.add(own)
        rookery.add(other, placement="pooled")
    ending.set()
    thread.join()
    rookery.wait_until_read()
    assert rookery.differences(later, []) == []
    assert (
        rookery.rows(
            "SELECT l, t FROM (SELECT tenant_id, count() AS l FROM main.events GROUP BY 1) AS a "
            "INNER JOIN (SELECT tenant_id, sum(events) AS t FROM main.totals GROUP BY 1) AS b USING tenant_id WHERE l != t"
        )
        == []
    )


NUMBERS = """\
nodes:
  - {name: it, sql: "SELECT tenant_id, sum(toUInt64(text)) AS number FROM texts GROUP BY tenant_id"}
materialize: {target: numbers, per_tenant: true, engine: {type: SummingMergeTree, sorting_key: [tenant_id]}}
"""
TEXTS = EVENTS.replace("{name: n, type: Int64}", "{name: text, type: String}") % "direct"
BLAMING = (
    "while pushing to view main._rk_texts_pipe ",
    "1: while pushing to view main._rk_texts_pipe. (X)",
    "while pushing to view main_nest_100._rk_texts",
    "Target table 'main.texts_counted' of view",
    "while pushing to view main._rk_nonesuch",
)


@pytest.mark.proves("D4")
def test_text_in_a_row_does_not_suspend_another_view(tmp_path: Path) -> None:
    with open_rookery(tmp_path) as rookery:
        counted = TOTALS.replace("totals", "texts_counted").replace("FROM events", "FROM texts")
        files = {
            "datasources/texts.yaml": TEXTS,
            "pipes/numbers_pipe.yaml": NUMBERS,
            "pipes/texts_pipe.yaml": counted,
        }
        rookery.push(files)
        rookery.add("1", "2", *map(str, range(3, 3 + len(BLAMING))), placement="pooled")
        rookery.add("100")
        for n, text in enumerate(BLAMING, 1):
            rows = [{"tenant_id": t, "id": t, "text": s} for t, s in ((1, "5"), (2, "6"), (2 + n, text))]
            body = "\n".join(map(json.dumps, rows)).encode()
            assert rookery.gateway.append("texts", body, Input.NDJSON).result(30).rows == 3
            assert rookery.rows("SELECT sum(events) FROM main.texts_counted") == [(3 * n,)]
            assert _excluded(rookery) == {"main._rk_numbers_pipe": [str(t) for t in range(3, 3 + n)]}


def test_a_failing_history_affects_only_its_tenant(rookery: Rookery) -> None:
    rookery.append([*_rows([*OWN, "50", "51"]), *_rows(["50"], n=0)])
    with pytest.raises(RookeryError, match="`50`"):
        rookery.add("50", placement="pooled")
    rookery.add("51", placement="pooled")
    rookery.add("101")
    rookery.push({})
    assert rookery.rows("SELECT sum(events) FROM main.totals WHERE tenant_id = 51") == [(1,)]
    assert rookery.workspace.current.tenants["51"].state == "ready"


def test_a_changed_pipe_that_would_fail_changes_nothing(rookery: Rookery) -> None:
    files = _files("direct")
    del files["datasources/events.yaml"]
    rookery.append([*_rows(OWN), {"tenant_id": 3, "id": 0, "n": 7}])
    before = rookery.rows("SELECT * FROM main.pooled FINAL ORDER BY tenant_id")
    changed = {f: t.replace("intDiv(100, n)", "intDiv(100, n - 7)") for f, t in files.items()}
    with pytest.raises(RookeryError, match="nothing was changed"):
        _push(rookery, changed, "pooled_shares", "all_shares")
    assert rookery.rows("SELECT * FROM main.pooled FINAL ORDER BY tenant_id") == before
    assert _push(rookery, files).empty
