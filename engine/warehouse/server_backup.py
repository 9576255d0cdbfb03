"""The BACKUP and RESTORE statements of a ClickHouse server: where backups are stored, and how a statement proceeds.

The statements run in the background of the server, because they take longer than a request may. They are found by an
id of our own.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from engine import errors
from engine.errors import Code, RookeryError
from engine.schema import literal
from engine.warehouse.errors import EngineError, translate
from engine.warehouse.port import Warehouse

_DESTINATION = re.compile(
    r"(?:(disk|s3):([\w.-]{1,100})/|(file):)((?:[\w.-]{1,200}/){0,10})([\w.-]{0,200})", re.ASCII
)
_SLOW_FILE = re.compile(r"\.(?:tgz|tzst|txz|tlz|tbz2?|tar\.[a-z0-9]{2,4})\Z")
"""A compressed tar. To read a file in it, a RESTORE unpacks everything before it, so the time grows quadratically."""
MAX_TEXT = 1_000
"""Longest text of a destination, in characters."""
FORMS = "disk:DISK/PATH, s3:COLLECTION/PATH (a named collection) or file:PATH"
POLL_SECONDS = 0.05
"""Pause between two looks at a running statement."""
_QUERY_SIZE = 262_144
"""ClickHouse's own limit of a statement, in bytes."""
RETRY_SECONDS = 0.5
"""Pause before the next attempt to reach the server."""
_WORDS = {"BACKUP_CREATED", "RESTORED"}
_RUNNING = {"CREATING_BACKUP", "RESTORING"}
STOP_SECONDS = 30.0
"""Maximum time to wait for a cancelled statement to end."""
GRACE_SECONDS = 60.0
"""How long the server may be unreachable before a statement counts as failed."""


@dataclass(frozen=True, slots=True)
class _Meaning:
    """What an error of the engine means here."""

    code: Code
    message: str
    """`{place}` is the destination, `{reason}` the engine's own message."""
    hint: str


_NOT_ALLOWED = _Meaning(
    errors.BACKUP_REFUSED,
    "the ClickHouse server does not allow {place}",
    "allow it in the server's configuration, <backups><allowed_disk> or <allowed_path>: docs/backup.md",
)
_NO_COLLECTION = _Meaning(
    errors.BACKUP_REFUSED,
    "the ClickHouse server does not have the named collection of {place}",
    "define it in the server's configuration, <named_collections>: docs/backup.md",
)
_NO_DISK = _Meaning(
    errors.BACKUP_REFUSED,
    "the ClickHouse server does not have the disk of {place}",
    "define it in the server's configuration, <storage_configuration>: docs/backup.md",
)
_NO_RIGHT = _Meaning(
    errors.BACKUP_REFUSED,
    "the user of ROOKERY_CLICKHOUSE_USER lacks a privilege for {place}: {reason}",
    "BACKUP on the workspace's databases, and NAMED COLLECTION for a bucket: deploy/clickhouse/users.xml",
)
_MEANINGS: Mapping[int, _Meaning] = {
    164: _NO_RIGHT,  # READONLY
    318: _NOT_ALLOWED,  # INVALID_CONFIG_PARAMETER
    344: _Meaning(  # SUPPORT_IS_DISABLED
        errors.BACKUP_REFUSED,
        "the ClickHouse server cannot write files like {place}",
        "name a destination without .zip or .tar",
    ),
    479: _NO_DISK,  # UNKNOWN_DISK
    497: _NO_RIGHT,  # ACCESS_DENIED
    598: _Meaning(  # BACKUP_ALREADY_EXISTS
        errors.ALREADY_EXISTS, "{place} already exists", "name a new destination: nothing is overwritten"
    ),
    599: _Meaning(  # BACKUP_NOT_FOUND
        errors.NO_FILE,
        "{place} does not contain a complete backup",
        "use the destination that `rookery backup` printed",
    ),
    605: _Meaning(  # BACKUP_ENTRY_NOT_FOUND
        errors.BACKUP_DAMAGED,
        "{place} does not contain this workspace",
        "set ROOKERY_WORKSPACE to the name that the workspace had",
    ),
    669: _NO_COLLECTION,  # NAMED_COLLECTION_DOESNT_EXIST
}
"""By the engine's number."""
_PHRASES: Mapping[str, _Meaning] = {
    "is not allowed for backups": _NOT_ALLOWED,
    "here is no named collection": _NO_COLLECTION,
    "is being written already": _Meaning(
        errors.ALREADY_EXISTS,
        "another BACKUP writes to {place}, or has been interrupted there",
        "name a new destination: nothing is overwritten",
    ),
}
"""By a part of the engine's message, for numbers that have several meanings. They come first."""

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


def new_destination(text: str) -> Destination:
    """The destination of a new backup. Raises USAGE."""
    destination = Destination.of(text)
    suffix = _SLOW_FILE.search(destination.path)
    if suffix is not None:
        raise RookeryError(
            errors.USAGE,
            f"a ClickHouse server restores {suffix[0]} files too slowly",
            hint="name a .zip or a .tar file, or a directory",
        )
    return destination


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

    def __init__(self, warehouse: Warehouse, sql: str, place: Destination, workspace: str) -> None:
        self._warehouse = warehouse
        self._sql = sql
        self._place = place
        self.id = f"{_id_prefix(workspace)}{secrets.token_hex(8)}"

    def start(self) -> None:
        """Start it. Raises BACKUP_REFUSED, ALREADY_EXISTS, NO_FILE, BACKUP_DAMAGED and the errors of the engine."""
        # The list of processes has only the beginning of a long statement.
        sql = f"/* {self.id} */ {self._sql} SETTINGS id = {literal(self.id)} ASYNC"
        try:
            # It names each tenant's database.
            self._warehouse.execute(sql, settings={"max_query_size": max(_QUERY_SIZE, 2 * len(sql))})
        except EngineError as exc:
            raise _meant(exc, self._place) from exc

    def state(self) -> State:
        """How far it is. Raises the error with which it has ended."""
        rows = self._rows()
        if not rows:
            raise RookeryError(
                errors.ENGINE_INTERNAL,
                f"the ClickHouse server has forgotten the {self._sql.partition(' ')[0]} of {self._place}",
                hint="it was probably restarted: run the command again, and to back up, with a new destination",
            )
        state = State(*rows[0])
        if not state.is_running and state.status not in _WORDS:
            raise _meant(translate(RuntimeError(state.error or state.status)), self._place)
        return state

    def wait_until_pinned(self, timeout_seconds: float) -> None:
        """Wait until it holds everything that it copies, so that the tables may change again. Raises BUSY."""
        deadline = time.monotonic() + timeout_seconds
        while (state := self.state()).is_running and not state.files:
            if time.monotonic() > deadline:
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

    def stop(self) -> None:
        """Stop it, and wait until it has ended. Never raises a RookeryError.

        It may run longer than STOP_SECONDS, or out of reach. `running` says whether it does.
        """
        deadline = time.monotonic() + STOP_SECONDS
        try:
            self._warehouse.query(
                f"KILL QUERY WHERE position(query, {literal(self.id)}) > 0 AND query_id != queryID() ASYNC"
            )
            while self._is_running() and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)
        except RookeryError:
            return

    def _is_running(self) -> bool:
        return any(State(*row).is_running for row in self._rows())

    def _rows(self) -> list[tuple[Any, ...]]:
        """What the server knows about it. Raises UNREACHABLE or BUSY after GRACE_SECONDS."""
        deadline = time.monotonic() + GRACE_SECONDS
        while True:
            try:
                return self._warehouse.query(
                    "SELECT toString(status), num_files, files_read, error FROM system.backups "
                    "WHERE id = {id:String}",
                    {"id": self.id},
                ).rows
            except RookeryError as exc:
                # The statement does not depend on our connection.
                if exc.code not in (errors.UNREACHABLE, errors.BUSY) or time.monotonic() > deadline:
                    raise
            time.sleep(RETRY_SECONDS)


@contextmanager
def started(warehouse: Warehouse, sql: str, place: Destination, workspace: str) -> Iterator[Statement]:
    """A BACKUP or RESTORE, which is stopped after an error in the context.

    Raises the errors of `Statement.start`.
    """
    statement = Statement(warehouse, sql, place, workspace)
    try:
        # If the connection breaks, it is unknown whether the server runs it.
        statement.start()
        yield statement
    except BaseException:
        statement.stop()
        raise


def running(warehouse: Warehouse, workspace: str) -> bool:
    """Whether the server runs a BACKUP or RESTORE of a workspace, possibly for a command that was killed."""
    states = ", ".join(map(literal, sorted(_RUNNING)))
    return _count(warehouse, workspace, f"toString(status) IN ({states})") > 0


def wait_for_beginnings(warehouse: Warehouse, workspace: str) -> None:
    """Wait until every BACKUP of a workspace holds what it copies. A command that was killed may have started one.

    Raises BACKUP_RUNNING if one does not get so far.
    """
    deadline = time.monotonic() + STOP_SECONDS
    while _count(warehouse, workspace, "toString(status) = 'CREATING_BACKUP' AND num_files = 0"):
        if time.monotonic() > deadline:
            raise RookeryError(
                errors.BACKUP_RUNNING,
                f"the ClickHouse server begins a backup of workspace `{workspace}`",
                hint="wait, or end it with KILL QUERY: SELECT * FROM system.backups",
                headers={"Retry-After": "30"},
            )
        time.sleep(POLL_SECONDS)


def _count(warehouse: Warehouse, workspace: str, condition: str) -> int:
    """The number of BACKUP and RESTORE statements of a workspace with a condition."""
    result = warehouse.query(
        f"SELECT count() FROM system.backups WHERE startsWith(id, {{p:String}}) AND {condition}",
        {"p": _id_prefix(workspace)},
    )
    return int(result.rows[0][0])


def _id_prefix(workspace: str) -> str:
    return f"rookery:{workspace}:"


def _meant(exc: EngineError, place: Destination) -> RookeryError:
    """The error of a statement, in our words if we know what it means."""
    text = exc.detail or exc.message
    phrases = (meaning for phrase, meaning in _PHRASES.items() if phrase in text)
    meaning = next(phrases, _MEANINGS.get(exc.engine_code or 0))
    if meaning is not None:
        return RookeryError(
            meaning.code, meaning.message.format(place=place, reason=exc.message), hint=meaning.hint, detail=text
        )
    if exc.code in (errors.DISK_FULL, errors.STORAGE):
        hint = "the disk of the destination, or that of the ClickHouse server: see the server's log"
        return RookeryError(exc.code, f"{exc.code.title}: {place}", hint=hint, detail=text)
    return exc
