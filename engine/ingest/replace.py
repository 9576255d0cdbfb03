"""Replaces all rows of a datasource with new ones, in one atomic step.

Only for datasources from which no other tables are derived: the rows of a landing datasource have already been
delivered, and a view's target would keep the results of the old rows.
"""

from __future__ import annotations

from dataclasses import replace

from engine.compiler import storage
from engine.errors import NOT_REPLACEABLE, RookeryError
from engine.observe import events
from engine.schema import Name
from engine.warehouse import ddl
from engine.workspace.workspace import Workspace

NEXT_TABLE_PREFIX = "_rk_next_"


class Replacement:
    """A table that is filled with the new rows and then exchanged with the datasource's own."""

    def __init__(self, workspace: Workspace, datasource: str) -> None:
        """Raises RK5012 if other tables are derived from the datasource's rows."""
        self._workspace = workspace
        build = workspace.current.build
        source = build.datasources[datasource]
        if source.is_landing:
            raise RookeryError(
                NOT_REPLACEABLE,
                f"`{datasource}` is a landing datasource: its rows are in the tenants' tables already",
                hint="append to it; to start over, remove the datasource and push it again",
            )
        readers = sorted(p.name for p in build.materialized() if p.target and datasource in p.target.triggers)
        if readers:
            raise RookeryError(
                NOT_REPLACEABLE,
                f"pipe `{readers[0]}` has stored rows that it made from those of `{datasource}`",
                hint="append to it, or remove the pipe first",
            )
        self._table = storage.workspace_table(source, workspace.name)
        self.name = Name(workspace.name, NEXT_TABLE_PREFIX + datasource)

    def begin(self) -> None:
        """Create the empty table. One that an interrupted replacement left behind is dropped."""
        self._workspace.warehouse.execute(ddl.drop_table(self.name))
        self._workspace.warehouse.execute(ddl.create_table(replace(self._table, name=self.name)))

    def commit(self) -> None:
        """Exchange the tables, and drop the old rows."""
        # No INSERT runs while the tables are exchanged.
        with self._workspace.view_lock.changing():
            self._workspace.warehouse.execute(f"EXCHANGE TABLES {self.name.sql()} AND {self._table.name.sql()}")
            # Keys of the old rows can be used again: receipts name the table.
            self._workspace.renew()
        self._workspace.warehouse.execute(ddl.drop_table(self.name))
        events.note("rows replaced", datasource=self._table.name.name)

    def abandon(self) -> None:
        """Drop the new rows, and leave the datasource unchanged."""
        self._workspace.warehouse.execute(ddl.drop_table(self.name))
