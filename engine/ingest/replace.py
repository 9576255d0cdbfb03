"""Putting new rows in the place of all that a datasource has, in one moment.

Only for datasources that nothing hangs on: a landing datasource is a log whose readers have its rows already, and a
view would keep what it made of the old ones.
"""

from __future__ import annotations

from dataclasses import replace

from engine.compiler import storage
from engine.errors import NOT_REPLACEABLE, RookeryError
from engine.schema import Name
from engine.warehouse import ddl
from engine.workspace.workspace import Workspace

NEXT = "_rk_next_"


class Replacement:
    """A table beside a datasource's own, to be filled and then to take its place."""

    def __init__(self, workspace: Workspace, datasource: str) -> None:
        """Raises RK5012 when other tables have been made from the datasource's rows."""
        self._workspace = workspace
        build = workspace.current.build
        source = build.datasources[datasource]
        if source.is_landing:
            raise RookeryError(
                NOT_REPLACEABLE,
                f"`{datasource}` is a landing datasource: tenants have its rows already",
                hint="append to it; to begin anew, remove the datasource and push it again",
            )
        readers = sorted(p.name for p in build.materialized() if p.target and datasource in p.target.triggers)
        if readers:
            raise RookeryError(
                NOT_REPLACEABLE,
                f"pipe `{readers[0]}` has made other rows from those of `{datasource}`",
                hint="append to it, or remove the pipe first",
            )
        self._table = storage.workspace_table(source, workspace.name)
        self.name = Name(workspace.name, NEXT + datasource)

    def begin(self) -> None:
        """Make the empty table; what an interrupted replacement left is dropped."""
        self._workspace.warehouse.execute(ddl.drop_table(self.name))
        self._workspace.warehouse.execute(ddl.create_table(replace(self._table, name=self.name)))

    def commit(self) -> None:
        """Let the new rows take the place of the old ones."""
        with self._workspace.view_lock.changing():
            self._workspace.warehouse.execute(f"EXCHANGE TABLES {self.name.sql()} AND {self._table.name.sql()}")
        self._workspace.warehouse.execute(ddl.drop_table(self.name))

    def abandon(self) -> None:
        """Leave everything as it was."""
        self._workspace.warehouse.execute(ddl.drop_table(self.name))
