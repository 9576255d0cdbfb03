"""The backups of a workspace, and those of the embedded engine: a copy of its directory, made while it runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

from engine.backup.server import ServerBackup
from engine.errors import BACKUP_RUNNING, NOT_EMBEDDED, RookeryError
from engine.observe import events
from engine.version import version
from engine.warehouse.archive import pack
from engine.warehouse.directory_copy import CopiedTable, DirectoryCopy
from engine.warehouse.errors import file_error
from engine.warehouse.layout_version import LAYOUT_VERSION
from engine.warehouse.server_backup import FORMS, Report, new_destination
from engine.workspace.workspace import Workspace

log = structlog.get_logger("rookery.backup")


class Backups:
    """The backups of one workspace: one at a time."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        # A plain lock, which another thread than the one that acquired it may release.
        self._running = threading.Lock()

    def start(self) -> Backup:
        """A copy of the data at one moment. The caller must close it.

        Raises BACKUP_RUNNING, NOT_EMBEDDED for a ClickHouse server, BUSY if a statement runs too long, DISK_FULL or
        STORAGE.
        """
        directory = self._workspace.warehouse.directory
        if directory is None:
            raise RookeryError(
                NOT_EMBEDDED,
                "a file can only be written by the embedded engine",
                hint=f"the ClickHouse server writes its own backups: name {FORMS}",
            )
        self._acquire()
        try:
            return Backup(self._workspace, directory, self._running)
        except BaseException as exc:
            self._running.release()
            if isinstance(exc, OSError):
                raise file_error(exc) from exc
            raise

    def take(self, text: str, flush_receipts: Callable[[], None], report: Report) -> dict[str, Any]:
        """Back up to a destination of the ClickHouse server. Returns the description.

        Raises USAGE for another destination, BACKUP_RUNNING, NOT_EMBEDDED for the embedded engine, and the errors of
        `ServerBackup.take`.
        """
        destination = new_destination(text)
        if self._workspace.warehouse.capabilities.embedded:
            raise RookeryError(
                NOT_EMBEDDED,
                f"{destination} is on a ClickHouse server, but this workspace has an embedded engine",
                hint="name a file or a directory on this machine",
            )
        self._acquire()
        try:
            return ServerBackup(self._workspace, destination, flush_receipts).take(report)
        finally:
            self._running.release()

    def _acquire(self) -> None:
        if not self._running.acquire(blocking=False):
            raise RookeryError(
                BACKUP_RUNNING, BACKUP_RUNNING.title, hint="wait until it is complete", headers={"Retry-After": "30"}
            )

    def close(self) -> None:
        """Do nothing: the responses own the backups."""


class Backup:
    """A copy of the data at one moment, and the bytes of its file."""

    def __init__(self, workspace: Workspace, directory: Path, running: threading.Lock) -> None:
        """Copy the data. `running` is released when the backup is closed."""
        self._running = running
        self._closed = False
        self._copy = DirectoryCopy(directory)
        try:
            self._copy.link()
            paused = _finish(workspace, self._copy)
            # From here on, the locks are released and appends continue.
            self._copy.prune()
            self.description = _described(workspace, list(self._copy.tables()), paused)
            events.note("backed up", paused_seconds=round(paused, 3))
        except BaseException:
            self._copy.remove()
            raise

    def chunks(self) -> Iterator[bytes]:
        """The bytes of the backup file. Raises OSError."""
        return pack(self._copy.path, self.description)

    def close(self) -> None:
        """Remove the copy, and allow the next backup. Harmless when repeated."""
        if not self._closed:
            self._closed = True
            self._copy.remove()
            self._running.release()


def _finish(workspace: Workspace, copy: DirectoryCopy) -> float:
    """Complete the copy at a moment when no row is being stored or delivered. Returns the seconds that appends
    waited.
    """
    with workspace.changes:
        started = time.monotonic()
        # Bad rows and receipts of a batch are stored before its good rows, and the backup has all of them or none.
        # Views and nests have exactly the rows of landing up to one block, or the registry records the difference.
        with workspace.batch_lock.exclusive(), workspace.view_lock.changing():
            # A batch that cannot be completed now is completed when the restored copy is opened.
            with suppress(RookeryError):
                workspace.view_lock.completion.complete_all()
            with workspace.warehouse.frozen():
                copy.finish()
        paused = time.monotonic() - started
    log.info("a backup was taken", paused_seconds=round(paused, 3))
    return paused


def _described(workspace: Workspace, tables: list[CopiedTable], paused: float) -> dict[str, Any]:
    """The description at the beginning of a backup file."""
    nests = f"{workspace.name}_nest"
    tables = [t for t in tables if t.name.database == workspace.name or t.name.database.startswith(nests)]
    landing = {n for n, r in workspace.current.build.relations.items() if r.kind == "landing"}
    return {
        "rookery": version(),
        "engine": workspace.warehouse.capabilities.version,
        "layout": LAYOUT_VERSION,
        "timezone": workspace.zone,
        "workspace": workspace.name,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "paused_seconds": round(paused, 3),
        "positions": {
            t.name.name: t.newest_block
            for t in tables
            if t.name.database == workspace.name and t.name.name in landing
        },
        "tables": {f"{t.name.database}.{t.name.name}": {"rows": t.rows, "parts": t.parts} for t in tables},
    }


def backups_of(workspace: Workspace) -> Backups:
    """The workspace's backups, created on first use."""
    return workspace.service("backups", lambda: Backups(workspace))
