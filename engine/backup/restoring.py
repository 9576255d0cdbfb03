"""Restores a workspace to a ClickHouse server with its RESTORE statement.

A database that only exists meanwhile marks the restore as incomplete: while it exists, no rookery opens the
workspace. After a kill at any point, the next restore deletes what there is, and starts again.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from engine.backup import description as descriptions
from engine.backup.description import Description, StoredTable, Tables, own_databases, stored_tables
from engine.backup.renumbering import renumber
from engine.backup.server import databases_list
from engine.errors import (
    ALREADY_EXISTS,
    BACKUP_DAMAGED,
    BACKUP_REFUSED,
    BACKUP_RUNNING,
    NOT_EMBEDDED,
    RESTORE_UNFINISHED,
    ZONE,
    RookeryError,
)
from engine.plurals import counted
from engine.schema import Mark, Name
from engine.settings import Settings
from engine.warehouse import ddl
from engine.warehouse.layout_version import LAYOUT_VERSION, newer_layout_error
from engine.warehouse.port import Warehouse
from engine.warehouse.registry import STATE_TABLE, Registry
from engine.warehouse.server_backup import Destination, Report, running, started
from engine.workspace.opening import open_warehouse
from engine.workspace.restored_tables import MARK_KIND, restoring_database, temporary_database


def restore(settings: Settings, source: Destination, report: Report) -> dict[str, Any]:
    """Restore the workspace of the settings, which must not exist. Returns the description of the backup.

    Raises NOT_EMBEDDED without a ClickHouse server, ALREADY_EXISTS, BACKUP_RUNNING, NO_FILE, BACKUP_DAMAGED, ZONE,
    LAYOUT_NEWER and the errors of the engine. After an error, nothing is left of the workspace.
    """
    if settings.clickhouse_url is None:
        raise RookeryError(
            NOT_EMBEDDED,
            f"{source} is on a ClickHouse server, but ROOKERY_CLICKHOUSE_URL is not set",
            hint="set it, or name a file that `rookery backup` wrote",
        )
    warehouse = open_warehouse(settings)
    try:
        description = _Restore(warehouse, settings.workspace, source, report).run()
    finally:
        warehouse.close()
    return {**description.as_dict(), "source": str(source)}


class _Restore:
    """One restore of a workspace."""

    def __init__(self, warehouse: Warehouse, workspace: str, source: Destination, report: Report) -> None:
        self.warehouse = warehouse
        self.workspace = workspace
        self.source = source
        self.report = report
        self._mark_uuid = ""
        """Of the database that marks the workspace as incomplete. Another restore would create another one."""

    def run(self) -> Description:
        """Restore the workspace. Returns the description of the backup."""
        self._begin()
        try:
            description = self._read_description()
            self._run(f"RESTORE {databases_list(description)} FROM {self.source.sql()}", "restoring")
            restored = stored_tables(self.warehouse, description.databases)
            _compare(description, restored)
            self._reload(restored)
            for log in {*description.logs.values()} & restored.keys():
                _require_numbers(self.warehouse, log, restored[log])
            self.report("adapting offsets", 0, 0)
            self._require_mark()
            self._renumber(description, restored)
            self._require_mark()
        except BaseException:
            # If the server cannot be reached, the next restore does this.
            with suppress(RookeryError):
                self._give_up()
            raise
        self._remove_mark()
        return description

    def _begin(self) -> None:
        """Mark the workspace as incomplete, and remove what an interrupted restore has left."""
        mark = Mark(self.workspace, restoring_database(self.workspace), MARK_KIND)
        is_ours = temporary_database(self.warehouse, mark)
        if running(self.warehouse, self.workspace):
            raise RookeryError(
                BACKUP_RUNNING,
                f"the ClickHouse server still runs a backup or restore of workspace `{self.workspace}`",
                hint="wait until it ends: SELECT * FROM system.backups",
                headers={"Retry-After": "30"},
            )
        if is_ours is False:
            raise RookeryError(
                ALREADY_EXISTS,
                f"database `{mark.resource}` already exists, and is not that of an interrupted restore",
                hint="restore to another server",
            )
        if is_ours is None:
            self._refuse_existing()
        self._remove_databases()
        self._remove_mark()
        self.warehouse.execute(ddl.create_database(mark.resource, mark))
        self._mark_uuid = self._found_mark()
        try:
            # A rookery that has opened the workspace in between has not seen the mark.
            self._refuse_existing()
        except RookeryError:
            self._remove_mark()
            raise

    def _refuse_existing(self) -> None:
        """Raise ALREADY_EXISTS if the workspace has a database."""
        taken = own_databases(self.warehouse, self.workspace)
        if taken:
            more = f" (and {len(taken) - 1} more)" if len(taken) > 1 else ""
            raise RookeryError(
                ALREADY_EXISTS,
                f"database `{taken[0]}`{more} of workspace `{self.workspace}` already exists",
                hint="nothing is overwritten: restore to another server, or drop the databases of the workspace",
            )

    def _found_mark(self) -> str:
        """The UUID of the database that marks the workspace as incomplete; empty without one."""
        rows = self.warehouse.query(
            "SELECT toString(uuid) FROM system.databases WHERE name = {d:String}",
            {"d": restoring_database(self.workspace)},
        ).rows
        return str(rows[0][0]) if rows else ""

    def _require_mark(self) -> None:
        """Raise RESTORE_UNFINISHED if another restore has replaced the mark. It removes what this one restored."""
        if self._found_mark() != self._mark_uuid:
            raise RookeryError(
                RESTORE_UNFINISHED,
                f"another `rookery restore` has started to restore workspace `{self.workspace}`",
                hint="wait until it ends: one at a time",
            )

    def _give_up(self) -> None:
        """Remove the workspace, unless another restore or a statement out of reach may still be creating it."""
        self._require_mark()
        if not running(self.warehouse, self.workspace):
            self._remove_databases()
            self._remove_mark()

    def _remove_databases(self) -> None:
        for database in own_databases(self.warehouse, self.workspace):
            self.warehouse.execute(ddl.drop_database(database))

    def _remove_mark(self) -> None:
        """Allow programs to open the workspace."""
        self.warehouse.execute(ddl.drop_database(restoring_database(self.workspace)))

    def _read_description(self) -> Description:
        """Restore the registry alone, and read the description from it."""
        temporary = restoring_database(self.workspace)
        copied, original = Name(temporary, STATE_TABLE), Name(self.workspace, STATE_TABLE)
        self._run(f"RESTORE TABLE {original.sql()} AS {copied.sql()} FROM {self.source.sql()}", "reading the backup")
        description = descriptions.read(Registry(self.warehouse, temporary), self.workspace)
        if description.layout > LAYOUT_VERSION:
            raise newer_layout_error(f"the backup of workspace `{self.workspace}`", description.layout)
        if description.zone != self.warehouse.zone:
            raise RookeryError(
                ZONE,
                f"the rows of the backup have the time zone {description.zone}, but that of the ClickHouse server is "
                f"{self.warehouse.zone}",
                hint=f"set <timezone>{description.zone}</timezone> on the server",
            )
        return description

    def _reload(self, restored: Tables) -> None:
        """Load the tables again.

        Until then, restored parts have the range of block numbers that they had before, and a condition on block
        numbers skips parts whose rows satisfy it.
        """
        for done, name in enumerate(restored):
            self.report("loading tables", done, len(restored))
            self._require_mark()
            self.warehouse.execute(f"DETACH TABLE {name.sql()}")
            self.warehouse.execute(f"ATTACH TABLE {name.sql()}")

    def _renumber(self, description: Description, restored: Tables) -> None:
        """Adapt the restored records. Raises BACKUP_DAMAGED if they are not those of a workspace."""
        try:
            renumber(self.warehouse, description, restored)
        except descriptions.UNREADABLE as exc:
            raise RookeryError(
                BACKUP_DAMAGED,
                "the records of the workspace in the backup cannot be read",
                hint="nothing was restored: use an older backup",
                detail=repr(exc),
            ) from exc

    def _run(self, sql: str, what: str) -> None:
        self._require_mark()
        with started(self.warehouse, sql, self.source, self.workspace) as statement:
            statement.wait(what, self.report)


def _require_numbers(warehouse: Warehouse, log: Name, table: StoredTable) -> None:
    """Raise BACKUP_REFUSED if a condition on block numbers does not find the rows of a restored table."""
    rows = warehouse.query(
        f"SELECT countIf(_block_number <= {table.newest_block}) FROM {log.sql()} WHERE _block_number > 0"
    ).rows[0][0]
    upto = warehouse.query(f"SELECT count() FROM {log.sql()} WHERE _block_number <= {table.newest_block}").rows[0][0]
    if table.keeps_rows and not rows == upto == table.rows:
        raise RookeryError(
            BACKUP_REFUSED,
            f"the ClickHouse server finds {upto:,} of {counted(table.rows, 'row')} of {log} by their block numbers",
            hint="nothing was restored: this version of ClickHouse cannot restore it; copy its disk instead",
        )


def _compare(description: Description, restored: Tables) -> None:
    """Raise BACKUP_DAMAGED if tables do not have the rows that they had at the moment of the backup."""
    registry = Name(description.workspace, STATE_TABLE)
    for name, table in description.tables.items():
        found = restored.get(name)
        # The description itself is one row of the registry.
        most = table.rows + int(name == registry)
        # Merges and TTLs may have removed rows of the other tables.
        if found is None or found.rows > most or (table.keeps_rows and found.rows != table.rows):
            raise RookeryError(
                BACKUP_DAMAGED,
                f"{name} has {counted(found.rows if found else 0, 'row')} in the backup, and had {table.rows:,} then",
                hint="nothing was restored: use an older backup",
            )
