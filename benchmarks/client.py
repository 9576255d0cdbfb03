"""A load generator that costs little: raw HTTP/1.1 over kept connections, one event loop.

On few cores every cycle of the client is missing on the server, so nothing is parsed here but the length of the
answer: some 30 µs per request, where a comfortable client takes a millisecond.
"""

from __future__ import annotations

import asyncio
import random
import resource
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

import uvloop


@dataclass
class Load:
    """What a load generator saw: seconds per request, its length, and the processor time that it took itself."""

    latencies: list[float]
    seconds: float
    own_cpu: float

    @property
    def per_second(self) -> float:
        return len(self.latencies) / self.seconds


class _Line(asyncio.Protocol):
    """One kept connection with one request at a time."""

    def __init__(self) -> None:
        self._buffer = b""
        self._wanted = -1
        self._answer: asyncio.Future[None] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def ask(self, request: bytes) -> Awaitable[None]:
        assert self._transport is not None
        self._buffer, self._wanted = b"", -1
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answer

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._wanted < 0:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self._buffer[:end].lower()
            if head[9:12] not in {b"200", b"202"}:
                self._fail(RuntimeError(self._buffer[:1000].decode(errors="replace")))
                return
            length = head.partition(b"content-length: ")[2].partition(b"\r\n")[0]
            self._wanted = end + 4 + int(length)
        if len(self._buffer) >= self._wanted and self._answer is not None and not self._answer.done():
            self._answer.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(exc or ConnectionError("the server closed the connection"))

    def _fail(self, exc: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


def request(method: str, url: str, path: str, token: str, body: bytes = b"") -> bytes:
    """A request as it goes over the wire."""
    head = f"{method} {path} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\nAuthorization: Bearer {token}\r\n"
    length = f"Content-Length: {len(body)}\r\n" if body or method == "POST" else ""
    return f"{head}{length}\r\n".encode() + body


async def _lines(url: str, count: int) -> list[_Line]:
    address = urlsplit(url)
    loop = asyncio.get_running_loop()
    host, port = str(address.hostname), int(address.port or 80)
    made = await asyncio.gather(*(loop.create_connection(_Line, host, port) for _ in range(count)))
    return [line for _, line in made]


def closed_loop(url: str, requests: Sequence[bytes], connections: int, seconds: float) -> Load:
    """Each connection asks again as soon as it is answered."""

    async def run() -> Load:
        lines = await _lines(url, connections)
        latencies: list[float] = []
        cpu, started = _cpu(), time.perf_counter()
        end = started + seconds

        async def caller(line: _Line, position: int) -> None:
            while (now := time.perf_counter()) < end:
                await line.ask(requests[position % len(requests)])
                latencies.append(time.perf_counter() - now)
                position += connections

        await asyncio.gather(*(caller(line, n) for n, line in enumerate(lines)))
        load = Load(latencies, time.perf_counter() - started, _cpu() - cpu)
        for line in lines:
            line.close()
        return load

    return _run(run)


def open_loop(url: str, requests: Sequence[bytes], callers: int, every: float, seconds: float) -> Load:
    """Each caller asks once per interval, at its own moment; a late answer is counted from when it was due."""

    async def run() -> Load:
        lines = await _lines(url, callers)
        latencies: list[float] = []
        chance = random.Random(7)
        cpu, started = _cpu(), time.perf_counter()

        async def caller(line: _Line, position: int, phase: float) -> None:
            for turn in range(int(seconds / every)):
                due = started + phase + turn * every
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                await line.ask(requests[(position + turn * callers) % len(requests)])
                latencies.append(time.perf_counter() - due)

        await asyncio.gather(*(caller(line, n, chance.random() * every) for n, line in enumerate(lines)))
        load = Load(latencies, time.perf_counter() - started, _cpu() - cpu)
        for line in lines:
            line.close()
        return load

    return _run(run)


def _run(work: Callable[[], Coroutine[Any, Any, Load]]) -> Load:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work())


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
