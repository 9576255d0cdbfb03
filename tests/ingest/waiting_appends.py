"""Appends that wait at the same time, so that those that may share a batch do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from engine.errors import RookeryError
from engine.ingest.batch import Append, AppendResult
from engine.ingest.writer_queues import IngestQueue
from engine.warehouse.port import Input
from tests.support.in_process import House


def appends(datasource: str, bodies: Sequence[tuple[str, bytes]]) -> list[Append]:
    return [Append(datasource, body, Input.NDJSON, tenant) for tenant, body in bodies]


def results(home: House, sent: Sequence[Append]) -> list[AppendResult | RookeryError]:
    """The results of appends that wait at the same time."""
    home.gateway._lock.acquire()
    try:
        futures = [_submitted(home, append) for append in sent]
        queue = home.gateway._queues[sent[0].datasource]
        home.gateway._start_batch(queue)
    finally:
        home.gateway._lock.release()
    return [_result(f) for f in futures]


def _submitted(home: House, append: Append) -> Future[AppendResult]:
    append.future.set_running_or_notify_cancel()
    home.gateway._queues.setdefault(append.datasource, IngestQueue()).add(append)
    return append.future


def _result(future: Future[AppendResult]) -> AppendResult | RookeryError:
    error = future.exception(60)
    assert error is None or isinstance(error, RookeryError), error
    return error or future.result()


def line(**values: Any) -> bytes:
    return json.dumps(values).encode()
