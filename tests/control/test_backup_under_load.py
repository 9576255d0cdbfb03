"""Backups that are taken while writers insert: a restored copy has each log up to one row, and everything derived from it.

Every batch has a key, a row for each tenant, and a bad row for the quarantine. A writer sends its next batch only when
the last one is stored, so a copy must have a prefix of each writer's batches, each of them completely.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.backup.embedded import backups_of
from engine.ingest.commit import Committer
from tests.cli.billing import EVENTS, FILES, assert_exact, assert_kinds_exact
from tests.cli.commands import Cli, for_server
from tests.support.clickhouse_http import WRITER, serve, server_settings
from tests.support.in_process import PATIENCE, Rookery, open_rookery
from tests.support.server import Server, running
from tests.support.soak import soak_rounds

OWN, POOLED = (1, 2), (8,)
TENANTS = (*OWN, *POOLED)
WRITERS = 3
BACKUPS = soak_rounds(1)


def project(mode: str) -> dict[str, str]:
    events = EVENTS.replace("tenant: tenant_id", f"tenant: {{column: tenant_id, fanout: {mode}}}")
    return {**FILES, "datasources/events.yaml": events}


def batch(writer: int, number: int) -> list[dict[str, Any]]:
    """One row for each tenant and a bad one; `units` is a number that no other row has."""
    first = (writer * 100_000 + number) * 10
    rows = [{"tenant_id": t, "event": "abc"[number % 3], "units": first + n} for n, t in enumerate(TENANTS)]
    return [*rows, {"tenant_id": 1, "event": f"bad-{writer}-{number}-", "units": "no number"}]


def send(http: httpx.Client, server: Server, writer: int, number: int, wait: str = "true") -> dict[str, Any]:
    answer = http.post(
        f"{server.url}/v0/events",
        params={"name": "events", "wait": wait},
        headers={"authorization": f"Bearer {server.admin_token}", "idempotency-key": f"{writer}-{number}"},
        content="\n".join(map(json.dumps, batch(writer, number))),
    )
    # Appends wait for a backup; they are not refused.
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


@dataclass
class Sent:
    """The number of batches that each writer has had acknowledged."""

    counts: Counter[int] = field(default_factory=Counter)
    failures: list[BaseException] = field(default_factory=list)

    def wait(self, more: int) -> None:
        """Wait until every writer has sent so many more batches."""
        goal = {w: self.counts[w] + more for w in range(WRITERS)}
        deadline = time.monotonic() + 60
        while any(self.counts[w] < n for w, n in goal.items()) and not self.failures:
            assert time.monotonic() < deadline, "the writers do not get further"
            time.sleep(0.01)


@contextmanager
def writing(server: Server) -> Iterator[Sent]:
    sent, stop = Sent(), threading.Event()

    def work(writer: int) -> None:
        try:
            with httpx.Client(timeout=60, trust_env=False, verify=False) as http:
                for number in range(100_000):
                    if stop.is_set():
                        return
                    send(http, server, writer, number)
                    sent.counts[writer] += 1
        except BaseException as exc:
            sent.failures.append(exc)

    threads = [threading.Thread(target=work, args=(w,)) for w in range(WRITERS)]
    for thread in threads:
        thread.start()
    try:
        yield sent
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not sent.failures, sent.failures


@pytest.fixture(
    scope="module",
    params=["routed", *(pytest.param(p, marks=pytest.mark.soak_only) for p in ("direct", "routed on a server"))],
)
def backups(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Any]]:
    """Backups under load, each with the batches that were acknowledged before and after it."""
    directory = tmp_path_factory.mktemp("loaded")
    (directory / "disk").mkdir()
    mode, _, where = request.param.partition(" ")
    taken = []
    with ExitStack() as stack:
        settings = {}
        if where:
            settings = server_settings(stack.enter_context(serve(directory / "ch", backups=directory / "disk")))
        server = stack.enter_context(running(directory / "home", **settings))
        server.push(project(mode))
        for tenant in TENANTS:
            server.tenant(str(tenant), "tables" if tenant in OWN else "pooled")
        cli = for_server(server, directory / "backups")
        with writing(server) as sent:
            for number in range(BACKUPS):
                sent.wait(4)
                before = sent.counts.copy()
                target = f"disk:backups/{number}" if where else f"{number}.tar"
                cli("backup", target, "--no-verify")
                source = target if where else directory / "backups" / target
                taken.append((source, directory / "disk", before, sent.counts.copy()))
            sent.wait(2)
    yield taken


def stored(server: Server) -> dict[tuple[int, int], int]:
    """The number of rows of each batch in landing."""
    rows = server.sql(
        "SELECT intDiv(units, 1000000) AS writer, intDiv(units, 10) % 100000 AS number, count() AS n FROM events GROUP BY ALL"
    )
    return {(int(r["writer"]), int(r["number"])): int(r["n"]) for r in rows}


def quarantined(server: Server) -> Counter[tuple[int, int]]:
    """The number of bad rows of each batch."""
    answer = server.admin_json("GET", "/v0/datasources/events/quarantine", params={"limit": 10_000})
    parts = [r["c__text"].split("bad-")[1].split("-") for r in answer["rows"]]
    return Counter((int(p[0]), int(p[1])) for p in parts)


def settle(server: Server) -> None:
    """Wait until every nest has what landing has."""
    deadline = time.monotonic() + 60
    while any(d["rows"] for d in server.admin_json("GET", "/v0/fanout")["datasources"]):
        assert time.monotonic() < deadline, "the nests do not catch up"
        time.sleep(0.05)


@contextmanager
def restored(source: str | Path, disk: Path, directory: Path) -> Iterator[Server]:
    """A server over a copy restored from a backup: a file, or a destination on the disk of a ClickHouse server."""
    with ExitStack() as stack:
        if isinstance(source, Path):
            Cli(directory)("restore", source, ".rookery/data")
            settings = {}
        else:
            settings = server_settings(stack.enter_context(serve(directory / "ch", backups=disk)))
            Cli(directory, settings)("restore", source)
        yield stack.enter_context(running(directory, **settings))


@pytest.mark.proves("D19")
@pytest.mark.soak
@pytest.mark.parametrize("number", range(BACKUPS))
def test_a_restored_copy_equals_a_prefix_of_the_log(backups: list[Any], number: int, tmp_path: Path) -> None:
    source, disk, before, after = backups[number]
    with restored(source, disk, tmp_path) as server, httpx.Client(timeout=60, trust_env=False, verify=False) as http:
        settle(server)
        landing = stored(server)
        for writer in range(WRITERS):
            numbers = sorted(n for w, n in landing if w == writer)
            assert numbers == list(range(len(numbers))), "a prefix of the writer's batches"
            assert before[writer] <= len(numbers) <= after[writer] + 1
        assert set(landing.values()) == {len(TENANTS)}, "complete batches"
        assert quarantined(server) == dict.fromkeys(landing, 1), "the bad rows of the same batches"
        assert_exact(server, OWN, POOLED)
        assert_kinds_exact(server)
        report = server.admin_json("GET", "/v0/doctor", params={"deep": "true"})
        assert report["healthy"], report["findings"]
        # Clients that did not hear of the loss send everything again under the old keys.
        for writer in range(WRITERS):
            for again in range(after[writer] + 1):
                answer = send(http, server, writer, again, "visible")
                assert answer.get("repeated", False) is ((writer, again) in landing)
        everything = {(w, n): len(TENANTS) for w in range(WRITERS) for n in range(after[w] + 1)}
        assert stored(server) == landing | everything
        assert quarantined(server) == dict.fromkeys(landing | everything, 1)
        assert_exact(server, OWN, POOLED)
        assert_kinds_exact(server)


@contextmanager
def opened(directory: Path, where: str) -> Iterator[Rookery]:
    """Rookery in this process, with an embedded engine or on a server."""
    with ExitStack() as stack:
        settings: dict[str, Any] = {}
        if where == "on a server":
            (directory / "disk").mkdir()
            url = stack.enter_context(serve(directory / "ch", backups=directory / "disk"))
            settings = dict(
                zip(("clickhouse_url", "clickhouse_user", "clickhouse_password"), (url, *WRITER), strict=True)
            )
        yield stack.enter_context(open_rookery(directory, **settings))


def take(rookery: Rookery) -> dict[str, Any]:
    """Make a backup. Returns its description."""
    backups = backups_of(rookery.workspace)
    if not rookery.workspace.warehouse.capabilities.embedded:
        return backups.take("disk:backups/1", rookery.gateway.receipts.flush, lambda *_: None)
    with closing(backups.start()) as made:
        return made.description


@pytest.mark.proves("D19")
@pytest.mark.parametrize("where", ["embedded", "on a server"])
def test_a_backup_waits_for_a_batch_that_is_being_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Its bad rows and its receipt are stored, and its good rows are not."""
    recorded, go_on, commit = threading.Event(), threading.Event(), Committer.commit

    def held(*args: Any) -> Any:
        recorded.set()
        assert go_on.wait(PATIENCE)
        return commit(*args)

    with opened(tmp_path, where) as rookery, ThreadPoolExecutor(2) as hands:
        rookery.push({"datasources/events.yaml": EVENTS})
        monkeypatch.setattr(Committer, "commit", held)
        try:
            appending = hands.submit(rookery.append, batch(0, 0))
            assert recorded.wait(PATIENCE)
            backup = hands.submit(take, rookery)
            while not rookery.workspace.batch_lock._waiting:
                assert not backup.done(), "it does not wait"
                time.sleep(0.01)
        finally:
            go_on.set()
        assert appending.result(PATIENCE).rows == len(TENANTS)
        tables = backup.result(PATIENCE)["tables"]
        assert (tables["main.events"]["rows"], tables["main.events_quarantine"]["rows"]) == (len(TENANTS), 1)
