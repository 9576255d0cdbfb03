"""The BACKUP and RESTORE statements of a ClickHouse server: where backups are stored, and how a statement proceeds.

The statements run in the background of the server, because they take longer than a request may. They are found by an
id of our own.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from engine import errors
from engine.errors import Code, RookeryError
from engine.schema import literal
from engine.warehouse.errors import EngineError, translate
from engine.warehouse.port import Warehouse

_DESTINATION = re.compile(
    r"(?:(disk|s3):([\w.-]{1,100})/|(file):)((?:[\w.-]{1,200}/){0,10})([\w.-]{0,200})", re.ASCII
)
MAX_TEXT = 1_000
"""Longest text of a destination, in characters."""
FORMS = "disk:DISK/PATH, s3:COLLECTION/PATH (a named collection) or file:PATH"
POLL_SECONDS = 0.05
"""Pause between two looks at a running statement."""
_WORDS = {"BACKUP_CREATED", "RESTORED"}
_RUNNING = {"CREATING_BACKUP", "RESTORING"}
_MEANINGS: dict[int | None, tuple[Code, str, str]] = {
    318: (
        errors.BACKUP_REFUSED,
        "the ClickHouse server does not allow this destination",
        "allow it in the server's configuration: <backups><allowed_disk> or <allowed_path>",
    ),
    598: (errors.ALREADY_EXISTS, "a backup of this name already exists", "name a new one: nothing is overwritten"),
    599: (errors.NO_FILE, "no backup with this name exists", "use the destination that `rookery backup` printed"),
    605: (
        errors.BACKUP_DAMAGED,
        "the backup does not contain this workspace",
        "set ROOKERY_WORKSPACE to the name that the workspace had",
    ),
}
"""By the engine's number: our code, the message and the hint."""

Report = Callable[[str, int, int], None]
"""Receives progress: what runs, the amount done, and the total."""


@dataclass(frozen=True, slots=True)
class Destination:
    """The place of one backup, as the ClickHouse server sees it. It never contains keys or passwords."""

    kind: str
    """`disk`, `s3` or `file`."""
    place: str
    """The name of the disk or of the named collection; empty for `file`."""
    path: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.place}/{self.path}" if self.place else f"{self.kind}:{self.path}"

    def sql(self) -> str:
        """The destination in a BACKUP or RESTORE statement."""
        # The name of a collection is an identifier; the pattern allows no character that would end one.
        first = {"disk": literal(self.place), "s3": f"`{self.place}`"}.get(self.kind)
        parts = [first] if first is not None else []
        return f"{self.kind.capitalize()}({', '.join([*parts, literal(self.path)])})"

    @staticmethod
    def of(text: str) -> Destination:
        """Read a destination. A path that ends with `/` gets a new name. Raises USAGE."""
        found = _DESTINATION.fullmatch(text) if len(text) <= MAX_TEXT else None
        if found is None or {".", ".."} & {*text.partition(":")[2].split("/")}:
            # The text is not repeated: it may contain the keys of a bucket.
            raise RookeryError(
                errors.USAGE,
                "this is not the destination of a ClickHouse server's backup",
                hint=f"{FORMS}; keys belong in the server's configuration",
            )
        kind, place, file, folder, name = found.groups(default="")
        name = name or f"rookery-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
        return Destination(kind or file, place, folder + name)


def is_destination(text: str) -> bool:
    """Whether a text names a place on a ClickHouse server and not a file on this machine."""
    return text.startswith(("disk:", "s3:", "file:"))


@dataclass(frozen=True, slots=True)
class State:
    """How far a statement is."""

    status: str
    files: int
    """Files of the backup; 0 until the engine knows them. From then on, it holds the parts that it copies."""
    read: int
    """Files that a RESTORE has read."""
    error: str = ""

    @property
    def is_running(self) -> bool:
        return self.status in _RUNNING


class Statement:
    """A BACKUP or RESTORE that runs in the background of the server."""

    def __init__(self, warehouse: Warehouse, sql: str, workspace: str) -> None:
        """Start it. Raises BACKUP_REFUSED, ALREADY_EXISTS, NO_FILE, BACKUP_DAMAGED and the errors of the engine."""
        self._warehouse = warehouse
        self._what = sql.partition(" ")[0]
        self.id = f"{_id_prefix(workspace)}{secrets.token_hex(8)}"
        try:
            warehouse.query(f"{sql} SETTINGS id = {literal(self.id)} ASYNC")
        except EngineError as exc:
            raise _meant(exc) from exc

    def state(self) -> State:
        """How far it is. Raises the error with which it has ended."""
        rows = self._warehouse.query(
            "SELECT toString(status), num_files, files_read, error FROM system.backups WHERE id = {id:String}",
            {"id": self.id},
        ).rows
        if not rows:
            raise RookeryError(
                errors.ENGINE_INTERNAL,
                f"the ClickHouse server has forgotten the {self._what}",
                hint="it was probably restarted: run the command again, with a new destination",
            )
        state = State(*rows[0])
        if not state.is_running and state.status not in _WORDS:
            raise _meant(translate(RuntimeError(state.error or state.status)))
        return state

    def wait_until_pinned(self, timeout_seconds: float) -> None:
        """Wait until it holds everything that it copies, so that the tables may change again. Raises BUSY."""
        deadline = time.monotonic() + timeout_seconds
        while (state := self.state()).is_running and not state.files:
            if time.monotonic() > deadline:
                self.cancel()
                raise RookeryError(
                    errors.BUSY,
                    f"the ClickHouse server has not begun to copy within {timeout_seconds:.0f} seconds",
                    hint="try again when the server is less busy",
                    headers={"Retry-After": "60"},
                )
            time.sleep(POLL_SECONDS)

    def wait(self, what: str, report: Report) -> State:
        """Wait until it has ended. Reports the files that a RESTORE has read. Raises the error with which it ends."""
        while (state := self.state()).is_running:
            report(what, state.read, state.files)
            time.sleep(POLL_SECONDS)
        report(what, state.files, state.files)
        return state

    def cancel(self) -> None:
        """Ask the server to stop it. Does not wait, and never raises a RookeryError."""
        try:
            self._warehouse.query(
                f"KILL QUERY WHERE position(query, {literal(self.id)}) > 0 AND query_id != queryID() ASYNC"
            )
        except RookeryError:
            # It then runs to its end, and leaves a backup that nothing names.
            return


def running(warehouse: Warehouse, workspace: str) -> bool:
    """Whether the server runs a BACKUP or RESTORE of a workspace, possibly for a command that was killed."""
    result = warehouse.query(
        "SELECT count() FROM system.backups "
        "WHERE startsWith(id, {p:String}) AND toString(status) IN {s:Array(String)}",
        {"p": _id_prefix(workspace), "s": [*sorted(_RUNNING)]},
    )
    return bool(result.rows[0][0])


def _id_prefix(workspace: str) -> str:
    return f"rookery:{workspace}:"


def _meant(exc: RookeryError) -> RookeryError:
    """The error of a statement, in our words if we know what it means."""
    code, message, hint = _MEANINGS.get(getattr(exc, "engine_code", None), (None, "", ""))
    if code is None:
        return exc
    return RookeryError(code, message, hint=hint, detail=exc.detail or exc.message)
