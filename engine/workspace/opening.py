"""Open a workspace in the embedded engine or in a ClickHouse server, as the settings say."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from engine.private_files import HOME, private_directory
from engine.settings import Settings
from engine.warehouse.directory import is_locked, locked_briefly
from engine.warehouse.embedded import EmbeddedWarehouse
from engine.warehouse.port import Warehouse, WarehouseOptions, limit_settings
from engine.warehouse.server import ServerWarehouse
from engine.warehouse.server_client import Credentials, has_database
from engine.workspace.workspace import Workspace


def open_warehouse(settings: Settings) -> Warehouse:
    """The database that the settings name. Raises RK6xxx."""
    options = WarehouseOptions(
        database=settings.empty_database,
        readers=settings.readers,
        writers=settings.writers,
        borrow_timeout=settings.borrow_timeout,
        statement_memory=settings.backfill_memory,
        zone=settings.timezone,
    )
    if settings.clickhouse_url is None:
        _make_private(settings)
        return EmbeddedWarehouse(settings.data, options, limits=_limits(settings))
    return ServerWarehouse(settings.clickhouse_url, options, _writer(settings), _reader(settings))


def _limits(settings: Settings) -> dict[str, int | str]:
    return limit_settings(
        seconds=settings.max_seconds,
        memory=settings.max_memory,
        total_memory=settings.total_memory,
        rows=settings.max_rows,
    )


def _writer(settings: Settings) -> Credentials:
    return Credentials(settings.clickhouse_user, settings.clickhouse_password.get_secret_value())


def _reader(settings: Settings) -> Credentials | None:
    """The user for queries, if the settings name a separate one."""
    if settings.clickhouse_reader_user is None:
        return None
    return Credentials(settings.clickhouse_reader_user, settings.clickhouse_reader_password.get_secret_value())


def _make_private(settings: Settings) -> None:
    """Remove other users' access to `.rookery/`, which older versions allowed."""
    if settings.state_directory.name == HOME:
        # If that fails, opening the directory will report the reason.
        with suppress(OSError):
            private_directory(settings.state_directory)


def table_count(data: Path) -> int:
    """Number of tables and views in an embedded engine's directory. Does not open the engine."""
    return sum(1 for _ in (data / "metadata").glob("*/*.sql"))


def has_workspace(settings: Settings) -> bool:
    """Whether the workspace exists. Does not create anything. Raises RK6001 while another process may be creating
    it.
    """
    if settings.clickhouse_url is None:
        metadata = settings.data / "metadata"
        exists = any((metadata / name).exists() for name in (f"{settings.workspace}.sql", settings.workspace))
        if not exists and is_locked(settings.data):
            raise locked_briefly(settings.data, "another process")
        return exists
    return has_database(settings.clickhouse_url, settings.workspace, _writer(settings))


def open_workspace(settings: Settings) -> Workspace:
    """Open the database and compile what is deployed. Closes the database again if that fails."""
    warehouse = open_warehouse(settings)
    try:
        return Workspace(settings, warehouse)
    except BaseException:
        warehouse.close()
        raise
