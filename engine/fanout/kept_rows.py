"""Keeps the rows of a batch in a separate table while they could not be read back from their datasource.

Rows of a landing datasource contain the id of their batch. Any other table may merge or replace rows, or have those
of some partitions only. So before a batch is inserted into such a datasource, if pipes read it, its rows are copied
into a separate table, and the copy is deleted once every view has the rows. If a copy exists at startup, a kill
interrupted its INSERT, which is then completed from the copy.

For a landing datasource, rows are copied only before a damaged part that contains them is removed. The table is
created before anything fails, because the engine does not start if a failing disk has truncated a table's definition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from engine.compiler.storage import digest
from engine.errors import STORAGE
from engine.project.datasource import Datasource
from engine.schema import Column, Mark, Name, Table, literal, quote
from engine.warehouse import ddl
from engine.warehouse.catalog import newest_block_in_parts
from engine.warehouse.errors import EngineError
from engine.workspace.workspace import Workspace

PREFIX = "_rk_held_"
TOKEN, AFTER = "_rk_token", "_rk_after"
KEEPS_NOTHING = -1
"""The value of `KeptBatch.after` for a table that does not store rows: it is always assumed to have received the
batch.
"""

Columns = tuple[tuple[str, str], ...]
"""Names and types."""


@dataclass(slots=True)
class KeptBatch:
    """The rows of one batch, in their stage or in the table that survives a restart."""

    datasource: str
    batch: str
    columns: Columns
    after: int
    """The newest block of the datasource's table before the batch."""
    values: str
    """The SQL of the values, one for each column."""
    source: str
    """The table of the rows, as SQL with an optional WHERE clause."""
    release: Callable[[], None]
    """Returns the stage to the pool."""
    saved: bool = False
    """Whether the rows are in the table that survives a restart."""
    restored: bool = False
    """Whether another process has saved them. It may have left a damaged part with the rows in the datasource."""
    removed: bool = False
    """Whether a damaged part with the rows was removed from the datasource, so that only views may have them."""

    def save(self, workspace: Workspace, *, truncate: bool = True) -> None:
        """Copy the rows to the table that survives a restart, which is empty unless it must be truncated first.

        Raises the database's errors, including those about values of the rows. The table must then be truncated the
        next time.
        """
        if self.saved:
            return
        table = kept_table(workspace, self.datasource, self.columns).name
        names = [n for n, _ in self.columns]
        rows = f"SELECT {self.values}, {literal(self.batch)}, {self.after} FROM {self.source}"
        if truncate:
            workspace.warehouse.execute(f"TRUNCATE TABLE {table.sql()}")
        workspace.warehouse.note_parts([table])
        limit = workspace.settings.commit_memory(len(self.columns))
        insert = ddl.insert_block(table.sql(), [*names, TOKEN, AFTER], self.batch, rows, max_memory_usage=limit)
        workspace.warehouse.execute(insert)
        # The engine may keep a part although writing it failed. Such rows could not be read after a restart.
        if bad := workspace.warehouse.damaged_parts([table]):
            raise EngineError(STORAGE, STORAGE.title, detail=str(bad), headers={"Retry-After": "2"})
        # From here on, the rows no longer depend on the stage.
        self.values, self.source, self.saved = ", ".join(map(quote, names)), table.sql(), True
        self.release()

    def insert(self, workspace: Workspace, **settings: int) -> str:
        """The INSERT of the batch, with its token."""
        target = Name(workspace.name, self.datasource).sql()
        rows = f"SELECT {self.values} FROM {self.source}"
        return ddl.insert_block(target, [n for n, _ in self.columns], self.batch, rows, **settings)

    def reached_table(self, workspace: Workspace) -> bool:
        """Whether the datasource's table may have received rows of the batch. If not, views have none either."""
        table = Name(workspace.name, self.datasource)
        return self.removed or newest_block_in_parts(workspace.warehouse, table) > self.after

    def remove_damaged_rest(self, workspace: Workspace) -> None:
        """Remove a damaged part that the interrupted INSERT has left, with its token, so that it can be repeated."""
        if self.restored and self.after != KEEPS_NOTHING:
            workspace.warehouse.remove_damaged_inserts(Name(workspace.name, self.datasource), self.after)

    def matches_datasource(self, workspace: Workspace) -> bool:
        """Whether the datasource still exists, with the same columns."""
        source = workspace.current.build.datasources.get(self.datasource)
        return source is not None and columns_of(source) == self.columns

    def delete(self, workspace: Workspace) -> None:
        """Delete the rows. Raises the database's errors, because remaining rows would be stored again after a
        restart.
        """
        if self.saved:
            table = kept_table(workspace, self.datasource, self.columns).name
            workspace.warehouse.execute(f"TRUNCATE TABLE IF EXISTS {table.sql()}")
        else:
            self.release()


def kept_table(workspace: Workspace, datasource: str, columns: Columns) -> Table:
    """The table that keeps the rows of a datasource's uncertain batch."""
    name = f"{PREFIX}{digest(datasource, *(text for column in columns for text in column))}"
    own = (Column(TOKEN, "String"), Column(AFTER, "Int64"))
    mark = Mark(workspace.name, datasource, "state")
    return Table(Name(workspace.name, name), (*(Column(n, t) for n, t in columns), *own), sorting_key="", mark=mark)


def columns_of(source: Datasource) -> Columns:
    """The columns of a datasource, in the form in which kept rows have them."""
    return tuple((c.name, c.type) for c in source.columns)


def saved_batches(workspace: Workspace) -> Iterator[KeptBatch]:
    """Batches whose rows were saved before a restart. Drops tables that do not match any datasource."""
    current = {
        kept_table(workspace, name, columns_of(source)).name: (name, columns_of(source))
        for name, source in workspace.current.build.datasources.items()
    }
    tables = workspace.warehouse.query(
        "SELECT name FROM system.tables WHERE database = {d:String} AND startsWith(name, {p:String}) ORDER BY name",
        {"d": workspace.name, "p": PREFIX},
    )
    for (text,) in tables.rows:
        table = Name(workspace.name, str(text))
        # The name contains a digest of the columns: the datasource no longer exists, or its rows would not fit.
        if table not in current:
            workspace.warehouse.execute(ddl.drop_table(table))
            continue
        name, columns = current[table]
        names = ", ".join(quote(n) for n, _ in columns)
        for batch, after in workspace.warehouse.query(f"SELECT DISTINCT {TOKEN}, {AFTER} FROM {table.sql()}").rows:
            yield KeptBatch(
                name, str(batch), columns, int(after), names, table.sql(), release_nothing, saved=True, restored=True
            )


def release_nothing() -> None:
    """Do nothing: the rows are in a separate table, or the borrower of the stage returns it."""
