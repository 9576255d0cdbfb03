"""A throwaway engine with any number of workspaces, each with a server of its own.

All workspaces share one engine, because a process can have only one, and starting it costs more than a workspace.
Each set of rows gets a new workspace, so no test can see what another one left behind.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, cast

from cli.connection import Connection, client
from cli.embedded_server import serving
from engine.observe import logs
from engine.settings import Settings
from engine.warehouse import ddl
from engine.warehouse.port import Warehouse
from engine.warehouse.unfinished import scratch_directory
from engine.workspace.opening import open_warehouse
from engine.workspace.workspace import Workspace


class ThrowawayEngine:
    """An embedded engine in a directory of its own.

    With `drop`, the databases of a workspace are dropped when it is closed, because many more will follow.
    """

    def __init__(self, settings: Settings, warehouse: Warehouse, *, drop: bool = False) -> None:
        self.warehouse = warehouse
        self._settings, self._drop = settings, drop
        self._opened = 0

    @contextmanager
    def workspace(self) -> Iterator[Connection]:
        """A new, empty workspace: an admin's connection to its server."""
        # Not reused: without `drop`, the databases of closed workspaces stay.
        self._opened += 1
        name = f"test{self._opened}"
        settings = self._settings.model_copy(
            update={"workspace": name, "data": self._settings.data.with_name(name) / "data"}
        )
        try:
            with self._served(settings) as connection:
                yield connection
        finally:
            if self._drop:
                self._drop_databases(name)
                shutil.rmtree(settings.data.parent, ignore_errors=True)

    @contextmanager
    def _served(self, settings: Settings) -> Iterator[Connection]:
        workspace = Workspace(settings, cast(Warehouse, _SharedWarehouse(self.warehouse)))
        with serving(workspace) as access, client(*access) as connection:
            yield connection

    def _drop_databases(self, workspace: str) -> None:
        for (database,) in self.warehouse.query("SELECT name FROM system.databases").rows:
            if database == workspace or database.startswith(f"{workspace}_"):
                self.warehouse.execute(ddl.drop_database(database))


class _SharedWarehouse:
    """A warehouse that stays open when one of its workspaces is closed."""

    def __init__(self, warehouse: Warehouse) -> None:
        self._warehouse = warehouse

    def __getattr__(self, name: str) -> Any:
        return getattr(self._warehouse, name)

    def close(self) -> None:
        """Do nothing: `engine_in` closes the warehouse."""


@contextmanager
def throwaway(settings: Settings) -> Iterator[ThrowawayEngine]:
    """An engine in a temporary directory."""
    with scratch_directory() as scratch, engine_in(scratch.path, settings) as engine:
        yield engine


@contextmanager
def engine_in(directory: Path, settings: Settings, *, drop: bool = False) -> Iterator[ThrowawayEngine]:
    """An engine that has nothing in common with the project's own data, server and tokens."""
    logs.configure("error")
    own = {
        "data": directory / "data",
        "workspace": "test",
        "clickhouse_url": None,
        "url": None,
        "token": None,
        "admin_token": None,
        # A throwaway engine needs no reserve of disk space, because its data need not survive.
        "min_free": 0,
        # A misspelled parameter would test the default instead.
        "strict_parameters": True,
    }
    private = settings.model_copy(update=own)
    with closing(open_warehouse(private)) as warehouse:
        yield ThrowawayEngine(private, warehouse, drop=drop)
