"""The services that routes share. They are created once per application, when it starts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from weakref import WeakValueDictionary

import anyio
from starlette.requests import Request

from engine.control.health import Health
from engine.ingest.gateway import Gateway
from engine.query.executor import Queries
from engine.query.reader_queue import ReaderQueue
from engine.web.future_bridge import FutureBridge
from engine.web.parquet_reader import ParquetReader
from engine.web.streaming import UnsentMemory
from engine.workspace.workspace import Workspace


@dataclass(slots=True)
class Services:
    """The services of a running application. All of them are used from the event loop; most of them start work in
    threads.
    """

    workspace: Workspace
    queries: Queries
    gateway: Gateway
    limiter: anyio.CapacityLimiter
    """Limits the threads that run queries."""
    uploads: anyio.CapacityLimiter
    """Limits the threads that read uploads. It is separate, because a large file occupies a thread for seconds."""
    control: anyio.CapacityLimiter
    """Limits the threads that run control work. It is separate, so that queries cannot delay this work."""
    probes: anyio.CapacityLimiter
    """Limits the threads that check the health. It is separate, because probes need no token."""
    changes: anyio.CapacityLimiter
    """Limits the threads of requests that change resources and wait for one another. It is separate, so that a long
    change does not delay other control work.
    """
    streams: anyio.CapacityLimiter
    """Limits the threads that read from started queries."""
    unsent: UnsentMemory
    """The memory for results that wait for their clients."""
    replacing: WeakValueDictionary[str, anyio.Lock]
    """A lock for each datasource whose rows are replaced, held while the new rows arrive."""
    spooled: Counter[str]
    """Bytes of the Parquet files that are received or read, by writer."""
    appended: FutureBridge
    """Passes the results of appends from threads to the event loop."""
    reader_queue: ReaderQueue
    parquet_reader: ParquetReader
    health: Health
    stopping: bool = False
    """Whether the server is shutting down and is no longer ready."""


def services_of(request: Request) -> Services:
    """The services of the application that received a request."""
    services: Services = request.app.state.rookery
    return services
