"""Writers that insert into landing over HTTP until they are stopped."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx

from tests.support.server import Server


@dataclass
class Written:
    """What the writers have had acknowledged so far; a failed insert is kept as text."""

    rows: int = 0
    batches: int = 0
    failures: list[str] = field(default_factory=list)
    slowest: float = 0.0

    def wait(self, batches: int, seconds: float = 30) -> None:
        """Wait until so many more batches are stored."""
        goal = self.batches + batches
        deadline = time.monotonic() + seconds
        while self.batches < goal and not self.failures:
            assert time.monotonic() < deadline, "the writers stand still"
            time.sleep(0.01)


@contextmanager
def writing(
    server: Server, tenants: Sequence[int], *, threads: int = 1, datasource: str = "events", pause: float = 0.1
) -> Iterator[Written]:
    """Each thread inserts batches with one row for every tenant; `units` is a number that no other row has."""
    written, stop, lock = Written(), threading.Event(), threading.Lock()
    numbers = itertools.count(1_000_000)

    def work() -> None:
        with httpx.Client(base_url=server.url, timeout=60, trust_env=False, verify=False) as http:
            while not stop.is_set():
                lines = [
                    f'{{"tenant_id": {t}, "event": "{"abc"[n % 3]}", "units": {n}}}'
                    for t, n in zip(tenants, numbers, strict=False)
                ]
                begun = time.monotonic()
                answer = http.post(
                    "/v0/events",
                    params={"name": datasource, "wait": "true"},
                    headers={"authorization": f"Bearer {server.admin_token}"},
                    content="\n".join(lines),
                )
                with lock:
                    written.batches += 1
                    written.slowest = max(written.slowest, time.monotonic() - begun)
                    if answer.status_code == 200:
                        written.rows += len(lines)
                    else:
                        written.failures.append(answer.text)
                stop.wait(pause)

    hands = [threading.Thread(target=work) for _ in range(threads)]
    for hand in hands:
        hand.start()
    try:
        yield written
    finally:
        stop.set()
        for hand in hands:
            hand.join()
    assert not written.failures, written.failures[:3]


def history(server: Server, tenants: Sequence[int], rows: int, datasource: str = "events") -> None:
    """Store rows before any pipe reads landing: so many for each tenant, in two batches."""
    for half in (range(0, rows, 2), range(1, rows, 2)):
        server.events(
            datasource,
            ({"tenant_id": t, "event": "abc"[n % 3], "units": t * 10_000 + n} for t in tenants for n in half),
        )
