"""Connections to a ClickHouse server: clients of its HTTP interface, with their users."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import clickhouse_connect
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.httputil import get_pool_manager
from urllib3 import PoolManager

from engine import errors
from engine.schema import quote
from engine.warehouse.errors import EngineError, translate

# The library logs errors that callers receive as exceptions anyway.
logging.getLogger("clickhouse_connect").addHandler(logging.NullHandler())


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user of a ClickHouse server."""

    user: str
    password: str = field(repr=False)


def has_database(url: str, name: str, credentials: Credentials) -> bool:
    """Whether a ClickHouse server has a database. Raises UNREACHABLE, AUTHENTICATION."""
    pool = get_pool_manager(maxsize=1)
    try:
        with translated():
            client = open_client(url, credentials, {}, pool)
            return bool(int(str(client.command(f"EXISTS DATABASE {quote(name)}"))))
    finally:
        pool.clear()


def open_client(url: str, credentials: Credentials, settings: Mapping[str, int | str], pool: PoolManager) -> Client:
    """A client for a URL. Raises UNREACHABLE for a URL that is not one of an HTTP interface."""
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = 0
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0:
        raise EngineError(
            errors.UNREACHABLE,
            "ROOKERY_CLICKHOUSE_URL must look like http://host:8123 or https://host:8443",
        )
    secure = parts.scheme == "https"
    return clickhouse_connect.get_client(
        interface=parts.scheme,
        host=parts.hostname,
        port=port or (8443 if secure else 8123),
        username=credentials.user,
        password=credentials.password,
        settings=dict(settings),
        pool_mgr=pool,
        proxy_path=parts.path.strip("/"),
        # The requests of a session cannot run concurrently.
        autogenerate_session_id=False,
    )


@contextmanager
def translated() -> Iterator[None]:
    """Translate every exception of the client to EngineError."""
    try:
        yield
    except Exception as exc:
        raise translate(exc) from exc
