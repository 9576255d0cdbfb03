"""A server that is killed again and again while rows come in: each is there once, wherever it belongs."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from tests.fanout.stream import Stream, add_tenants, judge, project, receipts_differ
from tests.support.server import Server, running

KILLS = 4


def _kill(server: Server, stream: Stream) -> None:
    server.process.send_signal(signal.SIGKILL)
    server.process.wait()
    stream.nowhere()


@pytest.mark.parametrize("mode", ["routed", "direct"])
def test_every_row_is_there_once(tmp_path: Path, mode: str) -> None:
    chance, stream = random.Random(mode), Stream(1)
    with running(tmp_path) as server:
        server.push(project(mode))
        add_tenants(server)
        stream.at(server)
        stream.start()
        time.sleep(0.5)
        _kill(server, stream)
    for _ in range(KILLS - 1):
        with running(tmp_path) as server:
            stream.at(server)
            time.sleep(chance.uniform(0.05, 1.0))
            _kill(server, stream)
    with running(tmp_path) as server:
        stream.at(server)
        stream.end()
        found = judge(server, stream)
        assert found.clean, found
        assert found.acknowledged > 20
        assert stream.faults == []
        assert receipts_differ(server, stream) == []
