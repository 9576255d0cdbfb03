"""The data directory of the embedded engine: private, locked by one process, with the engine's configuration."""

from __future__ import annotations

import fcntl
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from xml.sax.saxutils import escape

from engine import errors
from engine.private_files import private_file
from engine.warehouse.damaged_merges import undo_damaged
from engine.warehouse.dedup_log_repair import repair
from engine.warehouse.directory_copy import remove_copies
from engine.warehouse.errors import EngineError
from engine.warehouse.layout_version import LAYOUT_VERSION, DirectoryMark, read_mark, write_mark
from engine.warehouse.unfinished import remove_abandoned

LOCK = "rookery.lock"
CONFIG = "rookery.xml"
USERS = "rookery_users.xml"

SOURCES_KEPT = 30
"""Seconds for which the engine keeps the source parts of a merge. By default it may remove them immediately."""
# With the default intervals and thousands of tables, idle background threads use most of a core.
CONFIG_TEXT = """<clickhouse>
    <background_processing_pool_task_sleep_seconds_when_no_work_min>120</background_processing_pool_task_sleep_seconds_when_no_work_min>
    <background_processing_pool_task_sleep_seconds_when_no_work_multiplier>2</background_processing_pool_task_sleep_seconds_when_no_work_multiplier>
    <background_processing_pool_task_sleep_seconds_when_no_work_random_part>30</background_processing_pool_task_sleep_seconds_when_no_work_random_part>
    <background_move_processing_pool_task_sleep_seconds_when_no_work_min>600</background_move_processing_pool_task_sleep_seconds_when_no_work_min>
    <merge_tree><old_parts_lifetime>%d</old_parts_lifetime></merge_tree>
    %s
</clickhouse>
"""
# A stored column gets the time zone that applies when its table is loaded. Tables are loaded outside sessions, so the
# zone must be in the engine's default profile: functions of stored columns do not use the session's setting.
USERS_TEXT = """<clickhouse>
    <profiles><default><session_timezone>%s</session_timezone></default></profiles>
    <users>
        <default>
            <password></password><profile>default</profile><quota>default</quota>
            <networks><ip>::/0</ip></networks>
        </default>
    </users>
    <quotas><default></default></quotas>
</clickhouse>
"""


def allow_files() -> None:
    """Raise the limit on open files to the maximum: an insert opens about twenty for each nest that it reaches."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        # If the system refuses, the engine reports an error once it actually needs more files.
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _lock(path: Path) -> int:
    """The descriptor that holds the lock of a directory. Raises DIRECTORY_BUSY if another process holds it."""
    try:
        # The system releases the lock when the process ends, however it ends. A program that the process starts does
        # not inherit it.
        # In a directory that was cloned or unpacked, a link could lead to any file, which would be overwritten.
        lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise _unusable(path, exc) from exc
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        holder = os.read(lock, 32).decode(errors="replace").strip()
        os.close(lock)
        raise locked_briefly(path, f"process {holder}" if holder else "another process") from exc
    return lock


def _unusable(path: Path, exc: OSError) -> EngineError:
    return EngineError(
        errors.DIRECTORY_BUSY,
        f"data directory {path} cannot be used: {exc.strerror}",
        hint="choose another with ROOKERY_DATA",
        detail=str(exc),
    )


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """While the context is active, no process can open the directory. Raises DIRECTORY_BUSY."""
    lock = _lock(path)
    try:
        yield
    finally:
        os.close(lock)


class Directory:
    """A data directory that this process has locked until `release`."""

    def __init__(self, path: Path) -> None:
        """Create the directory with mode 0700 if needed, lock it, and repair it before an engine opens it.

        Raises DIRECTORY_BUSY if another process has locked it; LAYOUT_NEWER or LAYOUT_UNREADABLE, before anything is
        written to it.
        """
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.path = path.resolve()
        except OSError as exc:
            raise _unusable(path, exc) from exc
        self._lock = _lock(self.path)
        try:
            self.mark = read_mark(self.path)
        except BaseException:
            self.release()
            raise
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)
        remove_copies(self.path)
        remove_abandoned(self.path.parent)
        repair(self.path)
        # Otherwise the engine would detach damaged parts when it loads their table, and their rows would seem lost.
        undo_damaged(self.path)
        allow_files()
        self.config = self.path / CONFIG
        self.fresh = not (self.path / "store").exists()
        """Whether no engine has opened the directory yet."""

    def configure(self, zone: str | None) -> None:
        """Write the engine's configuration with the time zone of the stored data; None means the host's zone."""
        users = ""
        if zone is not None:
            file = self.path / USERS
            private_file(file, USERS_TEXT % zone)
            users = f"<users_config>{escape(str(file))}</users_config>"
        private_file(self.config, CONFIG_TEXT % (SOURCES_KEPT, users))

    def keep(self, zone: str, *, assumed: bool = False) -> None:
        """Record the current layout version and the time zone in the directory, unless they are already recorded.

        An `assumed` zone is that of the host, and can be corrected.
        """
        mark = DirectoryMark(LAYOUT_VERSION, zone, assumed)
        if self.mark != mark:
            write_mark(self.path, mark)
            self.mark = mark

    def release(self) -> None:
        """Unlock the directory for other processes. Harmless when repeated."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def busy(path: Path, holder: str, detail: str | None = None) -> EngineError:
    """DIRECTORY_BUSY, with a hint on how to proceed."""
    return EngineError(
        errors.DIRECTORY_BUSY,
        f"data directory {path} is held by {holder}",
        hint="only one process can use an embedded engine: stop the other one, or connect to its server with --url",
        detail=detail,
    )


def locked_briefly(path: Path, holder: str) -> EngineError:
    """DIRECTORY_BUSY for a directory that another process may release soon."""
    error = busy(path, holder)
    error.headers["Retry-After"] = "1"
    return error


def is_locked(path: Path) -> bool:
    """Whether a process has locked a data directory."""
    try:
        lock = os.open(path / LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False
