"""The bare engine in a separate process, with which rookery is compared.

Run as `python -m benchmarks.direct DIRECTORY`, it reads one JSON command per line and writes one JSON result per
line. It uses the engine only through clickhouse-connect, as rookery does.
"""

from __future__ import annotations

import secrets
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import clickhouse_connect
import orjson
from clickhouse_connect.driver.client import Client

from benchmarks.processes import cpu_of
from engine.warehouse.directory import allow_files


class Engine:
    """Handles on one directory, created when they are needed."""

    def __init__(self, path: Path) -> None:
        allow_files()
        config = str(path / "rookery.xml")
        self._connect = lambda: clickhouse_connect.get_client(
            interface="chdb", path=str(path), chdb_options={"config-file": config}
        )
        self._clients: list[Client] = []

    def clients(self, count: int) -> list[Client]:
        while len(self._clients) < count:
            self._clients.append(self._connect())
        return self._clients[:count]

    def command(self, statements: list[str]) -> dict[str, Any]:
        """Run statements."""
        for statement in statements:
            self.clients(1)[0].command(statement)
        return {}

    def values(self, statement: str) -> dict[str, Any]:
        """The first row of a SELECT."""
        return {"values": list(self.clients(1)[0].query(statement).result_rows[0])}

    def load(
        self, statements: list[str], threads: int, seconds: float, bindings: list[dict[str, str]]
    ) -> dict[str, Any]:
        """Run SELECTs one after another in the given number of threads, each with its own handle.

        `bindings` are the values of each statement's placeholders; none when empty.
        """
        latencies: list[float] = []
        failures: list[str] = []
        clients = self.clients(threads)
        cpu, started = cpu_of("self"), time.perf_counter()
        end = started + seconds

        def caller(client: Client, position: int) -> None:
            try:
                while (now := time.perf_counter()) < end:
                    turn = position % len(statements)
                    client.raw_query(statements[turn], parameters=bindings[turn] if bindings else None, fmt="JSON")
                    latencies.append(time.perf_counter() - now)
                    position += threads
            except Exception as exc:
                failures.append(str(exc))

        _run_all(caller, clients)
        if failures:
            return {"error": failures[0]}
        return {
            "latencies": latencies,
            "seconds": time.perf_counter() - started,
            "cpu": cpu_of("self") - cpu,
        }

    def insert(
        self, table: str, file: str, times: int, settings: dict[str, int | str] | None = None
    ) -> dict[str, Any]:
        """Insert an NDJSON file several times. Returns the seconds of each insert."""
        body = Path(file).read_bytes()
        client = self.clients(1)[0]
        took: list[float] = []
        for _ in range(times):
            started = time.perf_counter()
            _insert(client, table, body, settings)
            took.append(time.perf_counter() - started)
        return {"took": took}

    def insert_load(self, table: str, file: str, threads: int, seconds: float) -> dict[str, Any]:
        """Insert each line of a file separately, in the given number of threads. Returns their number and the
        duration.
        """
        lines = Path(file).read_bytes().splitlines()
        counts = [0] * threads
        failures: list[str] = []
        clients = self.clients(threads)
        cpu, started = cpu_of("self"), time.perf_counter()

        def caller(client: Client, position: int) -> None:
            try:
                while time.perf_counter() < started + seconds:
                    _insert(client, table, lines[(position + counts[position] * threads) % len(lines)], None)
                    counts[position] += 1
            except Exception as exc:
                failures.append(str(exc))

        _run_all(caller, clients)
        if failures:
            return {"error": failures[0]}
        return {"count": sum(counts), "seconds": time.perf_counter() - started, "cpu": cpu_of("self") - cpu}


def _run_all(caller: Callable[[Client, int], None], clients: Sequence[Client]) -> None:
    """Call a function with each client and its position, all of them at the same time."""
    running = [threading.Thread(target=caller, args=(client, n)) for n, client in enumerate(clients)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


def _insert(client: Client, table: str, body: bytes, settings: dict[str, int | str] | None) -> None:
    # The engine drops the same rows as a duplicate unless they have another token.
    given = {**(settings or {}), "insert_deduplication_token": secrets.token_hex(8)}
    client.raw_insert(table, insert_block=body, fmt="JSONEachRow", settings=given)


def main(directory: str) -> None:
    engine = Engine(Path(directory))
    for line in sys.stdin.buffer:
        asked = orjson.loads(line)
        try:
            answer = getattr(engine, asked.pop("do"))(**asked)
        except Exception as exc:
            answer = {"error": f"{type(exc).__name__}: {exc}"}
        sys.stdout.buffer.write(orjson.dumps(answer) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(sys.argv[1])
