"""A load generator that uses little processor time: raw HTTP/1.1 over persistent connections, on one event loop.

On a machine with few cores, the client takes processor time from the server. So only the length of a response is
parsed here, which takes about 30 µs per request; a high-level client takes a millisecond.
"""

from __future__ import annotations

import asyncio
import gc
import random
import resource
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from http.client import HTTPConnection
from typing import Any, cast
from urllib.parse import urlsplit

import uvloop


@dataclass
class Load:
    """The measurements of a load generator: seconds per request, its duration, and its own processor time."""

    latencies: list[float]
    seconds: float
    own_cpu: float
    refused: list[bytes] = field(default_factory=list)
    """Heads of the responses with status 429, which are not among the latencies."""

    @property
    def per_second(self) -> float:
        return len(self.latencies) / self.seconds


class _Line(asyncio.Protocol):
    """One persistent connection with one request at a time. A response is represented by its head."""

    def __init__(self) -> None:
        self._buffer = b""
        self._wanted = -1
        self._head = b""
        self._answer: asyncio.Future[bytes] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def ask(self, request: bytes) -> Awaitable[bytes]:
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
            if head[9:12] not in {b"200", b"202", b"429"}:
                self._fail(RuntimeError(self._buffer[:1000].decode(errors="replace")))
                return
            length = head.partition(b"content-length: ")[2].partition(b"\r\n")[0]
            self._head, self._wanted = head, end + 4 + int(length)
        if len(self._buffer) >= self._wanted and self._answer is not None and not self._answer.done():
            self._answer.set_result(self._head)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(exc or ConnectionError("the server closed the connection"))

    def _fail(self, exc: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


def request(method: str, url: str, path: str, token: str, body: bytes = b"") -> bytes:
    """The bytes of a request."""
    head = f"{method} {path} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\nAuthorization: Bearer {token}\r\n"
    length = f"Content-Length: {len(body)}\r\n" if body or method == "POST" else ""
    return f"{head}{length}\r\n".encode() + body


async def _lines(url: str, count: int) -> list[_Line]:
    address = urlsplit(url)
    loop = asyncio.get_running_loop()
    host, port = str(address.hostname), int(address.port or 80)
    made = await asyncio.gather(*(loop.create_connection(_Line, host, port) for _ in range(count)))
    return [line for _, line in made]


def closed_loop(
    url: str, requests: Sequence[bytes], connections: int, seconds: float, *, patience: float | None = None
) -> Load:
    """Each connection sends its next request as soon as it gets a response, or `patience` seconds after a 429."""

    async def run() -> Load:
        lines = await _lines(url, connections)
        latencies: list[float] = []
        refused: list[bytes] = []
        cpu, started = _cpu(), time.perf_counter()
        end = started + seconds

        async def caller(line: _Line, position: int) -> None:
            while (now := time.perf_counter()) < end:
                head = await line.ask(requests[position % len(requests)])
                position += connections
                if not _refused(head):
                    latencies.append(time.perf_counter() - now)
                    continue
                if patience is None:
                    raise RuntimeError(head.decode())
                refused.append(head)
                await asyncio.sleep(patience)

        await asyncio.gather(*(caller(line, n) for n, line in enumerate(lines)))
        load = Load(latencies, time.perf_counter() - started, _cpu() - cpu, refused)
        for line in lines:
            line.close()
        return load

    return _run(run)


def paced(url: str, streams: Sequence[tuple[Sequence[bytes], float]], seconds: float) -> list[Load]:
    """Several streams of requests at once, each at its own interval, no matter how long the responses take.

    Latency is measured from when a request was due. A request uses a free connection, or a new one.
    """
    loads = [Load([], seconds, 0.0) for _ in streams]

    async def run() -> Load:
        free = await _lines(url, 8)
        made = list(free)
        cpu, started = _cpu(), time.perf_counter()

        async def ask(load: Load, due: float, request: bytes) -> None:
            if free:
                line = free.pop()
            else:
                line = (await _lines(url, 1))[0]
                made.append(line)
            head = await line.ask(request)
            free.append(line)
            if _refused(head):
                load.refused.append(head)
            else:
                load.latencies.append(time.perf_counter() - due)

        async def stream(load: Load, requests: Sequence[bytes], every: float) -> None:
            async with asyncio.TaskGroup() as asked:
                for turn in range(int(seconds / every)):
                    due = started + turn * every
                    await asyncio.sleep(max(0.0, due - time.perf_counter()))
                    asked.create_task(ask(load, due, requests[turn % len(requests)]))

        await asyncio.gather(*(stream(load, *s) for load, s in zip(loads, streams, strict=True)))
        for load in loads:
            load.seconds, load.own_cpu = time.perf_counter() - started, _cpu() - cpu
        for line in made:
            line.close()
        return loads[0]

    _run(run)
    return loads


def _refused(head: bytes) -> bool:
    return head[9:12] == b"429"


def open_loop(url: str, requests: Sequence[bytes], callers: int, every: float, seconds: float) -> Load:
    """Each caller sends one request per interval, at its own time. Latency is measured from when a request was
    due.
    """

    async def run() -> Load:
        lines = await _lines(url, callers)
        latencies: list[float] = []
        chance = random.Random(7)
        cpu, started = _cpu(), time.perf_counter()

        async def caller(line: _Line, position: int, phase: float) -> None:
            for turn in range(int(seconds / every)):
                due = started + phase + turn * every
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                head = await line.ask(requests[(position + turn * callers) % len(requests)])
                if _refused(head):
                    raise RuntimeError(head.decode())
                latencies.append(time.perf_counter() - due)

        await asyncio.gather(*(caller(line, n, chance.random() * every) for n, line in enumerate(lines)))
        load = Load(latencies, time.perf_counter() - started, _cpu() - cpu)
        for line in lines:
            line.close()
        return load

    return _run(run)


class Sender:
    """One persistent connection, through the standard library: high-level clients take a millisecond per request."""

    def __init__(self, url: str, token: str, timeout: float = 600.0) -> None:
        address = urlsplit(url)
        self._line = HTTPConnection(address.hostname or "", address.port, timeout=timeout)
        self._headers = {"Authorization": f"Bearer {token}"}

    def __call__(self, path: str, body: bytes) -> tuple[float, str, bytes]:
        """Post a body. Returns the seconds that it took, the server's timing of the stages, and the response."""
        started = time.perf_counter()
        self._line.request("POST", path, body, self._headers)
        response = self._line.getresponse()
        answer = response.read()
        took = time.perf_counter() - started
        if response.status != 200:
            raise RuntimeError(answer.decode())
        parts = (part.partition(";dur=") for part in response.headers["server-timing"].split(", "))
        return took, " ".join(f"{name} {float(ms):.1f}" for name, _, ms in parts), answer

    def __enter__(self) -> Sender:
        return self

    def __exit__(self, *_: object) -> None:
        self._line.close()


def _run(work: Callable[[], Coroutine[Any, Any, Load]]) -> Load:
    # Pauses for garbage collection in the generator must not count as latency of the server.
    gc.collect()
    gc.freeze()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work())


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
