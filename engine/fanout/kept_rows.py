"""Rows of a batch in doubt whose datasource cannot tell them from others, kept until every view has them.

The rows of a landing datasource name their batch. Any other table may merge or replace rows, so a batch cannot be
read back from it: its rows are copied, as they were to be stored, into a table of their own that outlasts a restart.
The table is made before anything fails, since a definition that a failing disk cuts off keeps the engine from
starting. Where the copy cannot be written, the rows stay in the stage, in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import structlog

from engine.compiler.storage import digest
from engine.errors import STORAGE, RookeryError
from engine.project.model import Datasource
from engine.schema import Column, Mark, Name, Table, literal, quote
from engine.warehouse import ddl
from engine.warehouse.errors import EngineError
from engine.warehouse.port import Warehouse
from engine.workspace.workspace import Workspace

log = structlog.get_logger("rookery.fanout")

PREFIX = "_rk_held_"
TOKEN, AFTER = "_rk_token", "_rk_after"
KEEPS_NOTHING = -1
"""Stands for the newest block of a table that keeps no rows: whether it has received a batch cannot be told."""

Columns = tuple[tuple[str, str], ...]
"""Names and types."""


@dataclass(slots=True)
class Held:
    """One batch: the SQL of its `values`, one for each of `columns` (names and types), and what they are taken `of`.

    `after` is the newest block of the datasource's table before the batch. `release` gives back what the rows are in.
    `saved` says that they are in the table for them.
    """

    datasource: str
    batch: str
    columns: Columns
    after: int
    values: str
    of: str
    release: Callable[[], None]
    saved: bool = False

    def save(self, workspace: Workspace) -> None:
        """Copy the rows to where a restart finds them, if the disk allows it. Never raises."""
        if self.saved:
            return
        table = table_of(workspace, self.datasource, self.columns).name
        names = [n for n, _ in self.columns]
        rows = f"SELECT {self.values}, {literal(self.batch)}, {self.after} FROM {self.of}"
        try:
            workspace.warehouse.execute(f"TRUNCATE TABLE {table.sql()}")
            workspace.warehouse.execute(ddl.insert_block(table.sql(), [*names, TOKEN, AFTER], self.batch, rows))
            if bad := workspace.warehouse.damaged_parts([table]):
                raise EngineError(STORAGE, STORAGE.title, detail=str(bad))
        except RookeryError as exc:
            log.warning("rows in doubt could not be saved", datasource=self.datasource, batch=self.batch, error=exc)
            return
        self.values, self.of, self.saved = ", ".join(map(quote, names)), table.sql(), True
        self.release()

    def insert(self, workspace: Workspace) -> str:
        """The INSERT of the batch, under its token."""
        target = Name(workspace.name, self.datasource).sql()
        rows = f"SELECT {self.values} FROM {self.of}"
        return ddl.insert_block(target, [n for n, _ in self.columns], self.batch, rows)

    def begun(self, workspace: Workspace) -> bool:
        """Whether the datasource has some of the batch: views receive rows only after it."""
        return head(workspace.warehouse, Name(workspace.name, self.datasource)) > self.after

    def wanted(self, workspace: Workspace) -> bool:
        """Whether the datasource still exists, with the same columns."""
        source = workspace.current.build.datasources.get(self.datasource)
        return source is not None and columns_of(source) == self.columns

    def forget(self, workspace: Workspace) -> None:
        """Remove the rows. Raises what the database fails with: they would be stored again after a restart."""
        if self.saved:
            table = table_of(workspace, self.datasource, self.columns).name
            workspace.warehouse.execute(f"TRUNCATE TABLE IF EXISTS {table.sql()}")
        else:
            self.release()


def table_of(workspace: Workspace, datasource: str, columns: Columns) -> Table:
    """The table for a datasource's rows in doubt."""
    name = f"{PREFIX}{digest(datasource, *(text for column in columns for text in column))}"
    own = (Column(TOKEN, "String"), Column(AFTER, "Int64"))
    mark = Mark(workspace.name, datasource, "state")
    return Table(Name(workspace.name, name), (*(Column(n, t) for n, t in columns), *own), sorting_key="", mark=mark)


def columns_of(source: Datasource) -> Columns:
    """A datasource's columns as its rows in doubt have them."""
    return tuple((c.name, c.type) for c in source.columns)


def head(warehouse: Warehouse, table: Name) -> int:
    """The newest block of a table."""
    found = warehouse.query(
        "SELECT max(max_block_number) FROM system.parts "
        "WHERE active AND database = {d:String} AND table = {t:String}",
        {"d": table.database, "t": table.name},
    )
    return int(found.rows[0][0])


def saved(workspace: Workspace) -> Iterator[Held]:
    """Batches whose rows were saved before a restart. Tables that no datasource would use any more are dropped."""
    wanted = {
        table_of(workspace, name, columns_of(source)).name: (name, columns_of(source))
        for name, source in workspace.current.build.datasources.items()
    }
    found = workspace.warehouse.query(
        "SELECT name FROM system.tables WHERE database = {d:String} AND startsWith(name, {p:String}) ORDER BY name",
        {"d": workspace.name, "p": PREFIX},
    )
    for (text,) in found.rows:
        table = Name(workspace.name, str(text))
        if table not in wanted:
            workspace.warehouse.execute(ddl.drop_table(table))
            continue
        name, columns = wanted[table]
        names = ", ".join(quote(n) for n, _ in columns)
        for batch, after in workspace.warehouse.query(f"SELECT DISTINCT {TOKEN}, {AFTER} FROM {table.sql()}").rows:
            yield Held(name, str(batch), columns, int(after), names, table.sql(), _nothing, saved=True)


def _nothing() -> None:
    """A table for rows in doubt is given back to nobody."""
