"""What the warehouse tests share: where the server is, and the table that both adapters read.

With ROOKERY_TEST_CLICKHOUSE_URL set (and ROOKERY_TEST_CLICKHOUSE_USER, …_PASSWORD, …_READER_USER, …_READER_PASSWORD),
the server adapter is tested against that server; otherwise against the engine behind its HTTP interface.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.warehouse.port import Warehouse, WarehouseOptions
from engine.warehouse.server import ServerWarehouse
from engine.warehouse.server_client import Credentials
from tests.support.clickhouse_http import READER, WRITER, serve

EMPTY = "rk_test_empty"
DATABASE = "rktest"
READERS = 4
ROWS = 30_000


@dataclass(frozen=True)
class Server:
    """Where a server is, and who may talk to it."""

    url: str
    user: str = WRITER[0]
    password: str = WRITER[1]
    reader_user: str | None = READER[0]
    reader_password: str | None = READER[1]

    def open(self, **options: Any) -> ServerWarehouse:
        users = {name: options.pop(name) for name in vars(self).keys() & options.keys()}
        server = replace(self, **users)
        reader = None if server.reader_user is None else Credentials(server.reader_user, server.reader_password or "")
        chosen = WarehouseOptions(**{"database": EMPTY, "readers": READERS, **options})
        return ServerWarehouse(server.url, chosen, Credentials(server.user, server.password), reader)


@contextmanager
def clickhouse_server(path: Path) -> Iterator[Server]:
    """The server that the environment names, or else a new one over `path`."""
    url = os.environ.get("ROOKERY_TEST_CLICKHOUSE_URL")
    if url:
        prefix = "ROOKERY_TEST_CLICKHOUSE_"
        names = ("USER", "PASSWORD", "READER_USER", "READER_PASSWORD")
        given = {name.lower(): os.environ[prefix + name] for name in names if prefix + name in os.environ}
        yield replace(Server(url, "default", "", None, None), **given)
        return
    with serve(path) as url:
        yield Server(url)


@contextmanager
def fresh(warehouse: Warehouse) -> Iterator[None]:
    """An empty database for the tests, with one table of many rows."""
    warehouse.execute(f"DROP DATABASE IF EXISTS {DATABASE} SYNC")
    warehouse.execute(f"CREATE DATABASE {DATABASE}")
    warehouse.execute(
        f"CREATE TABLE {DATABASE}.many (n UInt64, s LowCardinality(String), d Decimal(18, 4), "
        "t DateTime64(3, 'UTC'), o Nullable(Int32), a Array(String), x String) ENGINE = MergeTree ORDER BY n"
    )
    warehouse.execute(
        f"INSERT INTO {DATABASE}.many SELECT number, toString(number % 7), number / 16, "
        "toDateTime64('2024-01-01 00:00:00', 3, 'UTC') + number, if(number % 3 = 0, NULL, toInt32(number)), "
        f"[toString(number), 'it''s \"\\n, \\t'], concat('a\"b\\\\', toString(number), '\\n🦉') FROM numbers({ROWS})"
    )
    yield
    warehouse.execute(f"DROP DATABASE {DATABASE} SYNC")
