"""After a start the tables of nests are loaded on first use, and everything works as before."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from engine.control import push, tenants
from engine.control.doctor import examine
from engine.control.doctor.detached_parts import detached_by_table
from engine.control.health import Health
from engine.control.recovery import finish
from engine.fanout.landing_log import nest_copies
from engine.plan.steps import StoreValues
from engine.warehouse import ddl
from engine.warehouse.catalog import read_schema
from engine.workspace.disk import part_counts
from engine.workspace.snapshot import DeployedFile
from tests.fanout.retrying_writers import project
from tests.support.in_process import Rookery, open_rookery

OWN = ("1", "2", "3")
_ids = itertools.count(1)


@pytest.fixture(params=["routed", pytest.param("direct", marks=pytest.mark.soak_only)], scope="module")
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


ROUTED = pytest.mark.parametrize(
    "mode", ["routed", pytest.param("direct", marks=pytest.mark.soak_only)], indirect=True, scope="module"
)
"""For operations before which completing the newest insert loads every table if landing has views."""


@contextmanager
def started(directory: Path) -> Iterator[Rookery]:
    """Rookery as the start of a server leaves it."""
    with open_rookery(directory) as opened:
        finish(opened.workspace)
        yield opened


def _rows(*whose: str) -> list[dict[str, int]]:
    return [{"tenant_id": int(t), "id": next(_ids), "n": next(_ids) % 100} for t in whose for _ in range(3)]


def _asleep(rookery: Rookery) -> set[tuple[str, str]]:
    rows = rookery.rows("SELECT database, name FROM system.tables WHERE engine = 'TableProxy'")
    return {(str(database), str(name)) for database, name in rows}


def _all(*names: str) -> set[tuple[str, str]]:
    return {(f"main_nest_{t}", name) for t in OWN for name in names}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, mode: str) -> Path:
    directory = tmp_path_factory.mktemp(mode)
    with started(directory) as rookery:
        rookery.push(project(mode))
        rookery.add(*OWN)
        assert rookery.deliver(_rows(*OWN))
    return directory


@pytest.fixture
def directory(tmp_path: Path, prepared: Path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path, symlinks=True, dirs_exist_ok=True))


@pytest.mark.parametrize("mode", ["routed"], indirect=True, scope="module")
def test_health_checks_load_no_table(directory: Path) -> None:
    """A server with thousands of nests examines them when it starts."""
    with started(directory) as rookery:
        asleep = _asleep(rookery)
        assert asleep
        assert Health(rookery.workspace).reason() is None
        assert part_counts(rookery.workspace, 1)
        assert detached_by_table(rookery.workspace.warehouse, "1", {}) == {}
        assert _asleep(rookery) == asleep


@pytest.mark.parametrize("mode", ["routed"], indirect=True, scope="module")
def test_only_the_nest_that_is_used_is_loaded(directory: Path) -> None:
    with started(directory) as rookery:
        assert _asleep(rookery) == _all("events", "sums")
        assert set(nest_copies(rookery.workspace, "events")) == set(OWN)
        assert rookery.deliver(_rows("2"))
        assert _asleep(rookery) == {(d, n) for d, n in _all("events", "sums") if d != "main_nest_2"}
        assert rookery.differences(OWN) == []


def test_repeated_deliveries_are_recognized_by_tables_that_were_not_loaded(directory: Path, mode: str) -> None:
    insert = ddl.insert_block("main_nest_1.events", ["tenant_id", "id", "n"], "again", "SELECT 1, 77, 7")
    with started(directory) as rookery:
        rookery.run(insert)
        before = rookery.rows("SELECT sum(total) FROM main_nest_1.sums")
    with started(directory) as rookery:
        # With views on landing, completing the newest insert has loaded every table.
        assert (("main_nest_1", "sums") in _asleep(rookery)) == (mode == "routed")
        rookery.run(insert)
        assert rookery.rows("SELECT sum(total) FROM main_nest_1.sums") == before


@ROUTED
def test_reading_and_pushing_see_tables_that_are_not_loaded(directory: Path, mode: str) -> None:
    with started(directory) as rookery:
        schema = read_schema(rookery.workspace.warehouse, "main")
        assert read_schema(rookery.workspace.warehouse, "main") == schema and not _asleep(rookery)
    with started(directory) as rookery:
        assert push.push(rookery.workspace, {}).empty
    with started(directory) as rookery:
        assert examine(rookery.workspace, deep=True).findings == ()
    with started(directory) as rookery:
        shown = {t["name"]: (t["engine"], t["rows"] > 0) for t in tenants.show(rookery.workspace, "1")["tables"]}
        assert shown == {"events": ("MergeTree", True), "sums": ("SummingMergeTree", True)}
        rookery.push(project(mode, "fresh"))
        assert rookery.differences(OWN, ("sums", "fresh")) == []
    with started(directory) as rookery:
        rookery.push(project("direct" if mode == "routed" else "routed"))
        assert rookery.deliver(_rows(*OWN))
        assert rookery.differences(OWN, ("sums", "fresh")) == []


@ROUTED
def test_a_changed_default_leaves_the_values_of_older_rows(directory: Path, mode: str) -> None:
    """The engine neither lists the parts of a table that it loaded after its start nor mutates the table."""

    def pushed(default: int) -> list[str]:
        files = project(mode)
        column = f"  - {{name: extra, type: UInt32, default: '{default}'}}\nengine:"
        files["datasources/events.yaml"] = files["datasources/events.yaml"].replace("engine:", column)
        sources = {Path(f).stem: DeployedFile(text, f) for f, text in files.items()}
        steps = push.push(rookery.workspace, sources).plan.steps
        return [str(s.name) for s in steps if isinstance(s, StoreValues)]

    def values(table: str) -> list[tuple[object, ...]]:
        where = "tenant_id = 1" if table == "main.events" else "1"
        return rookery.rows(f"SELECT extra, count() FROM {table} WHERE {where} GROUP BY extra ORDER BY extra")

    with started(directory) as rookery:
        pushed(5)
        assert rookery.deliver(_rows(*OWN))
    with started(directory) as rookery:
        assert set(pushed(6)) == {"main.events", *(f"main_nest_{t}.events" for t in OWN)}
        assert rookery.deliver(_rows(*OWN))
        assert values("main_nest_1.events") == values("main.events") == [(5, 6), (6, 3)]
    with started(directory) as rookery:
        assert pushed(7) == [], "all parts have the column by now"
        assert values("main_nest_1.events") == values("main.events")


def test_the_doctor_compares_rows_with_nulls(tmp_path: Path) -> None:
    text = project("direct")["datasources/events.yaml"].replace(
        "type: UInt32}\nengine", "type: Nullable(UInt32)}\nengine"
    )
    with started(tmp_path) as rookery:
        rookery.push({"datasources/events.yaml": text})
        rookery.add(*OWN)
        rookery.append([{"tenant_id": t, "id": t, "n": None} for t in (1, 2)] + [{"tenant_id": 3, "id": 3, "n": 1}])
        assert examine(rookery.workspace, deep=True).findings == ()
        rookery.run("ALTER TABLE main_nest_1.events UPDATE n = 5 WHERE 1 SETTINGS mutations_sync = 2")
        assert [f.check for f in examine(rookery.workspace, deep=True).findings] == ["copy"]


@ROUTED
def test_a_tenant_with_unloaded_tables_can_be_removed_and_added(directory: Path) -> None:
    with started(directory) as rookery:
        tenants.remove(rookery.workspace, "1")
        assert rookery.rows("SELECT count() FROM system.databases WHERE name = 'main_nest_1'") == [(0,)]
        rookery.add("1")
        assert rookery.deliver(_rows(*OWN))
        assert rookery.differences(OWN) == []


@ROUTED
def test_tables_with_a_ttl_are_loaded(tmp_path: Path, mode: str) -> None:
    """Rows do not expire in a table that is not loaded."""
    files = project(mode)
    files["datasources/sums.yaml"] = files["datasources/sums.yaml"].replace(
        "engine: {", "engine: {ttl: toDate('2100-01-01') + INTERVAL bucket DAY, "
    )
    with started(tmp_path) as rookery:
        rookery.push(files)
        rookery.add(*OWN)
    with started(tmp_path) as rookery:
        assert not _asleep(rookery) & _all("sums")
