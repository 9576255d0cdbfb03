"""Writers that retry until their rows are acknowledged, and checks that each row is stored where it belongs, once.

The project has one landing datasource with a copy and a table of sums in every nest. Rows have ids of their own, so
that lost and doubled rows are found in landing, in the copies and, by count and sum, in the sums.
"""

from __future__ import annotations

import json
import random
import signal
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.support.server import Server

OWN = ("1", "2", "3", "4")
"""Tenants with tables of their own."""
POOLED, UNKNOWN = "8", "9"
EVERYONE = (*OWN, POOLED, UNKNOWN)
SETTLE_SECONDS = 60.0
RECEIPTS = 40
"""How many receipts are checked, of retried requests and of all requests."""
CHECKSUM = "count() AS rows, uniqExact(id) AS ids, sum(n) AS total, groupBitXor(cityHash64(id, n)) AS hash"
NOTHING: dict[str, Any] = {"rows": 0, "ids": 0, "total": 0, "hash": "0"}

_EVENTS = """
tenant: {column: tenant_id, fanout: %s, nest_copy: %s}
columns:
  - {name: tenant_id, type: UInt32}
  - {name: id, type: UInt64}
  - {name: n, type: UInt32}
engine: {type: MergeTree, sorting_key: [tenant_id, id]}
"""
_SUMS = """
tenant: {column: tenant_id, landing: false}
columns:
  - {name: tenant_id, type: UInt32}
  - {name: bucket, type: UInt8}
  - {name: events, type: UInt64}
  - {name: total, type: UInt64}
engine: {type: SummingMergeTree, sorting_key: [tenant_id, bucket], columns: [events, total]}
"""
_PIPE = """
nodes:
  - name: sums_of
    sql: |
      SELECT tenant_id, toUInt8(id %% 4) AS bucket, count() AS events, sum(n) AS total
      FROM events GROUP BY tenant_id, bucket
materialize: {target: %s, per_tenant: true}
"""


def project(mode: str, *more: str, copies: bool = True) -> dict[str, str]:
    """The files of the project, with further sums of the same kind."""
    files = {"datasources/events.yaml": _EVENTS % (mode, str(copies).lower())}
    for name in ("sums", *more):
        files[f"datasources/{name}.yaml"] = _SUMS
        files[f"pipes/add_to_{name}.yaml"] = _PIPE % name
    return files


@dataclass(slots=True)
class Request:
    """Rows that were sent under one key. `tries` counts how often, `acknowledged` how often with an answer."""

    key: str
    rows: list[dict[str, int]]
    tries: int = 0
    acknowledged: int = 0
    answers: list[dict[str, Any]] = field(default_factory=list)

    @property
    def body(self) -> bytes:
        return "\n".join(map(json.dumps, self.rows)).encode()


class Stream:
    """Writers in threads. The address of the server can change, and it can be unreachable for a while."""

    def __init__(self, seed: int, *, first: int = 0, keyed: bool = True, tenants: Iterable[str] = EVERYONE) -> None:
        """Ids begin after `first`."""
        self.url: str | None = None
        self.token = ""
        self.requests: list[Request] = []
        self.faults: list[str] = []
        self._keyed = keyed
        self._tenants = [int(t) for t in tenants]
        self._chance = random.Random(seed)
        self._lock = threading.Lock()
        self._ids = first
        self._ending = threading.Event()
        self._threads: list[threading.Thread] = []

    def connect(self, server: Server) -> None:
        """Send to a server from now on."""
        self.token, self.url = server.admin_token, server.url

    def disconnect(self) -> None:
        self.url = None

    def request(self, size: int | None = None) -> Request:
        """A request with rows of any tenants."""
        with self._lock:
            size = size or self._chance.choice((1, 1, 2, 5, 20))
            rows = []
            for _ in range(size):
                self._ids += 1
                tenant = self._chance.choice(self._tenants)
                rows.append({"tenant_id": tenant, "id": self._ids, "n": self._chance.randrange(1000)})
            made = Request(f"key-{self._ids}", rows)
            self.requests.append(made)
            return made

    def send(self, client: httpx.Client, request: Request, wait: str = "true") -> bool:
        """One try; whether it was acknowledged."""
        url = self.url
        if url is None:
            return False
        headers = {"authorization": f"Bearer {self.token}"}
        if self._keyed:
            headers["idempotency-key"] = request.key
        with self._lock:
            request.tries += 1
        try:
            answer = client.post(
                f"{url}/v0/events", params={"name": "events", "wait": wait}, content=request.body, headers=headers
            )
        except httpx.HTTPError:
            return False
        if answer.status_code == 200:
            with self._lock:
                request.acknowledged += 1
                request.answers.append(answer.json())
            return True
        if answer.status_code != 503:
            self.faults.append(f"{answer.status_code} {answer.text[:300]}")
        return False

    def start(self, writers: int = 4) -> None:
        for n in range(writers):
            thread = threading.Thread(target=self._write, args=(random.Random(n),), daemon=True)
            self._threads.append(thread)
            thread.start()

    def until(self, acknowledged: int) -> None:
        """Wait until so many more requests have been acknowledged."""
        deadline = time.monotonic() + SETTLE_SECONDS
        expected = self._acknowledged() + acknowledged
        while self._acknowledged() < expected:
            assert time.monotonic() < deadline, f"{self._acknowledged()} requests in a minute: {self.faults[:3]}"
            time.sleep(0.01)

    def _acknowledged(self) -> int:
        return sum(bool(r.acknowledged) for r in list(self.requests))

    def finish(self) -> None:
        """Let every writer finish its current request."""
        self._ending.set()
        for thread in self._threads:
            thread.join(SETTLE_SECONDS)
            assert not thread.is_alive(), "a writer got no answer"
        self._threads.clear()

    def _write(self, chance: random.Random) -> None:
        with (
            httpx.Client(timeout=20, trust_env=False, verify=False) as client,
            httpx.Client(timeout=20, trust_env=False, verify=False) as other,
        ):
            while not self._ending.is_set():
                request = self.request()
                if chance.random() < 0.1:
                    # Not retried: it may have been stored.
                    self.send(client, request)
                    continue
                if self._keyed and chance.random() < 0.2:
                    twin = threading.Thread(target=self.send, args=(other, request))
                    twin.start()
                    self._insist(client, request, chance)
                    twin.join()
                    continue
                self._insist(client, request, chance)

    def _insist(self, client: httpx.Client, request: Request, chance: random.Random) -> None:
        wait = "visible" if chance.random() < 0.1 else "true"
        deadline = time.monotonic() + SETTLE_SECONDS
        while not self.send(client, request, wait) and time.monotonic() < deadline:
            time.sleep(0.02)


@dataclass(frozen=True, slots=True)
class Delivered:
    """The stored rows of a stream."""

    requests: int
    acknowledged: int
    lost: int
    doubled: int
    torn: int
    apart: tuple[str, ...]
    """Where nests and sums differ from landing."""

    @property
    def clean(self) -> bool:
        return not (self.lost or self.doubled or self.torn or self.apart)


def check_delivery(
    server: Server, stream: Stream, own: Iterable[str] = OWN, *, sums: Iterable[str] = ("sums",)
) -> Delivered:
    """Count lost, doubled and partly stored rows, and compare nests with landing once they have caught up."""
    counted = Counter(
        {int(r["id"]): int(r["c"]) for r in server.sql("SELECT id, count() AS c FROM events GROUP BY id")}
    )
    lost = doubled = torn = 0
    for request in stream.requests:
        there = [counted[row["id"]] for row in request.rows]
        lost += sum(n == 0 for n in there) if request.acknowledged else 0
        doubled += sum(n > 1 for n in there)
        torn += len(set(there)) > 1
    apart = differences(server, own, sums=sums)
    acknowledged = sum(bool(r.acknowledged) for r in stream.requests)
    return Delivered(len(stream.requests), acknowledged, lost, doubled, torn, tuple(apart))


def differences(server: Server, own: Iterable[str], *, sums: Iterable[str] = ("sums",)) -> list[str]:
    """Where tenants' tables differ from a filter of landing; waits while they only lag."""
    deadline = time.monotonic() + SETTLE_SECONDS
    tokens = {t: _reader(server, t, sums) for t in (*own, POOLED)}
    before: list[str] | None = None
    while True:
        expected = landing(server)
        differing = [d for t, token in tokens.items() for d in _compared(server, t, token, expected, sums)]
        if not differing or time.monotonic() > deadline or (before == differing and _settled_for(server) > 4):
            return differing
        before = differing
        time.sleep(0.3)


_since: dict[str, tuple[object, float]] = {}


def _settled_for(server: Server) -> float:
    """How many seconds landing and nests must stay unchanged before their differences count."""
    state = json.dumps(landing(server), sort_keys=True, default=str)
    known = _since.get(server.url)
    if known is None or known[0] != state:
        _since[server.url] = (state, time.monotonic())
        return 0.0
    return time.monotonic() - known[1]


def landing(server: Server) -> dict[str, dict[str, Any]]:
    """Rows and checksum by tenant."""
    rows = server.sql(f"SELECT toString(tenant_id) AS t, {CHECKSUM} FROM events GROUP BY t")
    by_tenant: dict[str, dict[str, Any]] = defaultdict(lambda: dict(NOTHING))
    by_tenant.update({str(r.pop("t")): r for r in rows})
    return by_tenant


def _reader(server: Server, tenant: str, sums: Iterable[str]) -> str:
    return server.mint(*(f"DATASOURCES:READ:{d}" for d in ("events", *sums)), tenant=tenant)


def _compared(
    server: Server, tenant: str, token: str, wanted: Mapping[str, Mapping[str, Any]], sums: Iterable[str]
) -> list[str]:
    should, differing = wanted[tenant], []
    (copy,) = server.sql(f"SELECT {CHECKSUM} FROM events", token)
    if {k: str(v) for k, v in copy.items()} != {k: str(v) for k, v in should.items()}:
        differing.append(f"tenant {tenant}: copy {dict(copy)}, landing {dict(should)}")
    for name in sums:
        (added,) = server.sql(f"SELECT sum(events) AS rows, sum(total) AS total FROM {name}", token)
        if (int(added["rows"]), int(added["total"])) != (int(should["rows"]), int(should["total"])):
            differing.append(f"tenant {tenant}: {name} {dict(added)}, landing {dict(should)}")
    return differing


def receipts_differ(server: Server, stream: Stream) -> list[str]:
    """Requests, retried ones first, whose receipt differs from landing or from the response."""
    counted = Counter(
        {int(r["id"]): int(r["c"]) for r in server.sql("SELECT id, count() AS c FROM events GROUP BY id")}
    )
    differing = []
    repeated = [r for r in stream.requests if r.tries > 1]
    for request in [*repeated[:RECEIPTS], *stream.requests[:: len(stream.requests) // RECEIPTS + 1]]:
        answer = server.admin("GET", f"/v0/events/{request.key}")
        there = sum(bool(counted[row["id"]]) for row in request.rows)
        in_receipt = 0 if answer.status_code == 404 else answer.json()["receipts"][0]["successful_rows"]
        answered = {a["successful_rows"] for a in request.answers}
        if in_receipt != there or answered - {in_receipt}:
            differing.append(f"{request.key}: {there} rows, receipt of {in_receipt}, answers {answered}")
    return differing


def kill(server: Server, stream: Stream) -> None:
    """SIGKILL. Writers get no connection until they learn the new address."""
    server.process.send_signal(signal.SIGKILL)
    server.process.wait()
    stream.disconnect()


def add_tenants(server: Server) -> None:
    """The tenants of the project, by placement."""
    server.admin_json("POST", "/v0/tenants", json={"ids": list(OWN), "placement": "tables"})
    server.tenant(POOLED)
