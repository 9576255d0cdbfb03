"""A request under a key happens once, even if its rows have left landing before it is repeated."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.cache import DEFAULT_MAX_BYTES
from engine.control import erasure, resources, tenants
from engine.ingest.batch import AppendResult, Input
from engine.ingest.idempotency.receipt import Receipt
from engine.ingest.replace import Replacement
from tests.support.in_process import PATIENCE, Rookery, open_copy, open_rookery

EVENTS = """
tenant: tenant_id
columns:
  - {name: tenant_id, type: UInt32}
  - {name: at, type: DateTime}
engine: {sorting_key: [tenant_id, at]}
"""
COUNTS = """
sql: SELECT tenant_id, count() AS events FROM events GROUP BY tenant_id
materialize: {target: counts, per_tenant: true, engine: {type: SummingMergeTree, sorting_key: [tenant_id]}}
"""
PLAIN = "{columns: [{name: tenant_id, type: UInt32}, {name: at, type: DateTime}], engine: {sorting_key: [at]}}"
FILES = {
    "datasources/events.yaml": EVENTS,
    "datasources/plain.yaml": PLAIN,
    "datasources/owned.yaml": EVENTS.replace("tenant: tenant_id", "tenant: {column: tenant_id, landing: false}"),
    "pipes/fill_counts.yaml": COUNTS,
}
ROWS = [{"tenant_id": 1, "at": "2100-01-01 00:00:00"}, {"tenant_id": 1, "at": "yesterday"}]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("receipts")
    with open_rookery(directory) as opened:
        opened.push(FILES)
        opened.add("1", placement="pooled")
    return directory


def _send(rookery: Rookery, key: str) -> AppendResult:
    body = "\n".join(map(json.dumps, ROWS)).encode()
    return rookery.gateway.append("events", body, Input.NDJSON, key=key).result(PATIENCE)


def _counted(rookery: Rookery) -> int:
    return int(rookery.rows("SELECT sum(events) FROM main.counts")[0][0])


@pytest.mark.parametrize("killed", [False, True])
def test_a_repeated_request_is_not_stored_after_its_rows_expired(
    prepared: Path, tmp_path: Path, killed: bool
) -> None:
    with open_copy(prepared, tmp_path) as rookery:
        first = _send(rookery, "a")
        assert (first.rows, first.quarantined, _counted(rookery)) == (1, 1, 1)
        if killed:
            rookery.gateway.receipts._stored._unrecorded.clear()
    with open_rookery(tmp_path) as rookery:
        rookery.run("TRUNCATE TABLE main.events")
        assert rookery.gateway.receipts.show(None, "a")["receipts"][0]["successful_rows"] == 1
    with open_rookery(tmp_path) as rookery:
        again = _send(rookery, "a")
        assert again.repeated and (again.rows, again.quarantined) == (1, 1)
        assert _counted(rookery) == 1
        assert rookery.rows("SELECT count() FROM main.events_quarantine") == [(1,)]


def _receipt(number: int) -> Receipt:
    """One of a sender that adds rows for very many tenants with long ids."""
    return Receipt(("", "events", f"{number}"), "", "batch", 0, 0, {f"{number}-{k:0200}": 1 for k in range(1000)})


def test_a_repeated_request_is_not_stored_after_its_tenant_was_erased(prepared: Path, tmp_path: Path) -> None:
    with open_copy(prepared, tmp_path) as rookery:
        receipts = rookery.gateway.receipts
        receipts.mark_stored(map(_receipt, range(300)))
        assert 50 < len(receipts._confirmed) < 300 and receipts._confirmed.bytes <= DEFAULT_MAX_BYTES
        _send(rookery, "a")
        tenants.remove(rookery.workspace, "1", purge=True)
    with open_rookery(tmp_path) as rookery:
        assert _send(rookery, "a").repeated
        assert rookery.rows("SELECT count() FROM main.events") == [(0,)]


GOOD, BAD = ROWS
OTHER = {**GOOD, "tenant_id": 2}
REQUESTS: dict[str, tuple[str, str | None, list[dict[str, Any]]]] = {
    "of a tenant": ("events", "1", [GOOD]),
    "of a tenant, bad": ("events", "1", [BAD]),
    "with one tenant": ("events", None, [GOOD, BAD]),
    "with two tenants": ("events", None, [GOOD, OTHER]),
    "with another tenant": ("events", "2", [OTHER]),
    "owned": ("owned", "1", [GOOD]),
    "not owned": ("owned", None, [GOOD]),
    "plain": ("plain", None, [GOOD]),
    "plain, bad": ("plain", None, [BAD]),
}
"""By key: the datasource, the tenant that the token is bound to, and the rows."""


def _purge(rookery: Rookery) -> None:
    tenants.remove(rookery.workspace, "1", purge=True)


def _killed_purge(rookery: Rookery) -> None:
    """Killed when it has erased, and repeated as the tenant is listed: without `--purge`."""
    with pytest.MonkeyPatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(tenants, "erase", _erase_and_die)
        _purge(rookery)
    tenants.remove(rookery.workspace, "1")


def _erase_and_die(*arguments: Any) -> None:
    erasure.erase(*arguments)
    _die()


def _die(*_: object) -> None:
    raise KeyboardInterrupt


def _killed_addition(rookery: Rookery) -> None:
    """Killed when it has deleted the keys of the purged tenant."""
    _purge(rookery)
    with pytest.MonkeyPatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(tenants, "TenantRecord", _die)
        rookery.add("1")


def _remove(rookery: Rookery) -> None:
    tenants.remove(rookery.workspace, "1")


def _create_again(rookery: Rookery) -> None:
    for name in ("events", "plain", "owned"):
        resources.remove(rookery.workspace, "datasource", name, force=True)
    rookery.push(FILES)


def _replace(rookery: Rookery) -> None:
    for name in ("plain", "owned"):
        replacement = Replacement(rookery.workspace, name)
        replacement.begin()
        replacement.commit()


OF_TENANT = {"of a tenant", "of a tenant, bad", "with one tenant", "owned"}
CASES: list[tuple[Callable[[Rookery], None], str, bool, set[str]]] = [
    (_purge, "pooled", False, OF_TENANT),
    (_purge, "tables", True, OF_TENANT),
    (_killed_purge, "tables", False, OF_TENANT),
    (_killed_addition, "pooled", False, OF_TENANT),
    (_remove, "tables", False, set()),
    (_create_again, "pooled", False, {*REQUESTS}),
    (_replace, "pooled", False, {"plain", "plain, bad", "owned", "not owned"}),
]
"""How rows are removed, the tenant's placement, whether the server is restarted, and the keys that are forgotten."""


@pytest.mark.parametrize(
    ("remove", "placement", "restarted", "forgotten"), CASES, ids=[f"{c[0].__name__}-{c[1]}" for c in CASES]
)
def test_keys_go_with_their_rows(
    prepared: Path,
    tmp_path: Path,
    remove: Callable[[Rookery], None],
    placement: str,
    restarted: bool,
    forgotten: set[str],
) -> None:
    with open_copy(prepared, tmp_path) as rookery:
        _remove(rookery)
        rookery.add("1", placement=placement)
        rookery.add("2", placement="pooled")
        for key, (name, bound, rows) in REQUESTS.items():
            assert not _request(rookery, name, bound, rows, key).repeated
        remove(rookery)
        if not restarted:
            _check_forgotten(rookery, forgotten, placement)
    if restarted:
        with open_rookery(tmp_path) as rookery:
            _check_forgotten(rookery, forgotten, placement)


def _check_forgotten(rookery: Rookery, forgotten: set[str], placement: str) -> None:
    """Exactly these keys can be used again, and then store their rows."""
    rookery.add("1", placement=placement)
    before = {name: _count(rookery, name) for name in ("events", "owned", "plain")}
    for key, (name, bound, rows) in REQUESTS.items():
        result = _request(rookery, name, bound, rows, key)
        assert (key, result.repeated) == (key, key not in forgotten)
        before[name] += sum(row is not BAD for row in rows) * (key in forgotten)
    assert {name: _count(rookery, name) for name in before} == before


def _request(rookery: Rookery, name: str, bound: str | None, rows: list[dict[str, Any]], key: str) -> AppendResult:
    body = "\n".join(map(json.dumps, rows)).encode()
    return rookery.gateway.append(name, body, Input.NDJSON, bound, key).result(PATIENCE)


def _count(rookery: Rookery, name: str) -> int:
    return int(rookery.rows(f"SELECT count() FROM main.{name}")[0][0])
