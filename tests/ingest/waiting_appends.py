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
from tests.support.in_process import Rookery


def appends(datasource: str, bodies: Sequence[tuple[str, bytes]]) -> list[Append]:
    return [Append(datasource, body, Input.NDJSON, tenant) for tenant, body in bodies]


def results(rookery: Rookery, sent: Sequence[Append]) -> list[AppendResult | RookeryError]:
    """The results of appends that wait at the same time."""
    rookery.gateway._lock.acquire()
    try:
        futures = [_submitted(rookery, append) for append in sent]
        queue = rookery.gateway._queues[sent[0].datasource]
        rookery.gateway._start_batch(queue)
    finally:
        rookery.gateway._lock.release()
    return [_result(f) for f in futures]


def _submitted(rookery: Rookery, append: Append) -> Future[AppendResult]:
    append.future.set_running_or_notify_cancel()
    rookery.gateway._queues.setdefault(append.datasource, IngestQueue()).add(append)
    return append.future


def _result(future: Future[AppendResult]) -> AppendResult | RookeryError:
    error = future.exception(60)
    assert error is None or isinstance(error, RookeryError), error
    return error or future.result()


def line(**values: Any) -> bytes:
    return json.dumps(values).encode()
