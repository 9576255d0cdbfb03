"""The embedded engine's directory: private, held by one process, with the engine's configuration."""

from __future__ import annotations

import fcntl
import os
import resource
from contextlib import suppress
from pathlib import Path
from xml.sax.saxutils import escape

from engine import errors
from engine.warehouse.damaged_merges import undo_damaged
from engine.warehouse.dedup_log_repair import repair
from engine.warehouse.errors import EngineError
from engine.warehouse.layout_version import LAYOUT_VERSION, DirectoryMark, read_mark, write_mark

LOCK = "rookery.lock"
CONFIG = "rookery.xml"
USERS = "rookery_users.xml"

SOURCES_KEPT = 30
"""Seconds for which the engine keeps what a part was merged from. Without a setting it may remove them at once."""
# With thousands of tables the background threads otherwise take most of a core while nothing happens.
CONFIG_TEXT = """<clickhouse>
    <background_processing_pool_task_sleep_seconds_when_no_work_min>120</background_processing_pool_task_sleep_seconds_when_no_work_min>
    <background_processing_pool_task_sleep_seconds_when_no_work_multiplier>2</background_processing_pool_task_sleep_seconds_when_no_work_multiplier>
    <background_processing_pool_task_sleep_seconds_when_no_work_random_part>30</background_processing_pool_task_sleep_seconds_when_no_work_random_part>
    <background_move_processing_pool_task_sleep_seconds_when_no_work_min>600</background_move_processing_pool_task_sleep_seconds_when_no_work_min>
    <merge_tree><old_parts_lifetime>%d</old_parts_lifetime></merge_tree>
    %s
</clickhouse>
"""
# Columns take the zone of whatever loads their table. That is no session, so only the engine's own profile reaches
# them: as a setting of sessions alone, the zone would be another one for functions of stored columns.
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
    """Let this process open as many files as it may: an insert opens some twenty for every nest that it reaches."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        # Where the system refuses, the engine says so when it comes to that.
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Directory:
    """A data directory held by this process until `release`."""

    def __init__(self, path: Path) -> None:
        """Make the directory (mode 0700) and take it.

        Raises DIRECTORY_BUSY when another holds it, and before anything is written LAYOUT_NEWER or LAYOUT_UNREADABLE.
        """
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.path = path.resolve()
            self._lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise EngineError(
                errors.DIRECTORY_BUSY,
                f"data directory {path} cannot be used: {exc.strerror}",
                hint="choose another with ROOKERY_DATA",
                detail=str(exc),
            ) from exc
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            holder = os.read(self._lock, 32).decode(errors="replace").strip()
            os.close(self._lock)
            raise held(path, f"process {holder}" if holder else "another process") from exc
        try:
            self.mark = read_mark(self.path)
        except BaseException:
            self.release()
            raise
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)
        repair(self.path)
        # The engine would put them aside as broken, which looks as if rows were missing.
        undo_damaged(self.path)
        allow_files()
        self.config = self.path / CONFIG
        self.fresh = not (self.path / "store").exists()
        """Whether no engine has ever opened the directory."""

    def configure(self, zone: str | None) -> None:
        """Write the engine's configuration, with the time zone of all that is in the directory; None: the host's."""
        users = ""
        if zone is not None:
            file = self.path / USERS
            file.write_text(USERS_TEXT % zone, encoding="utf-8")
            users = f"<users_config>{escape(str(file))}</users_config>"
        self.config.write_text(CONFIG_TEXT % (SOURCES_KEPT, users), encoding="utf-8")

    def keep(self, zone: str) -> None:
        """Mark the directory with the present layout and its time zone, unless it is."""
        mark = DirectoryMark(LAYOUT_VERSION, zone)
        if self.mark != mark:
            write_mark(self.path, zone)
            self.mark = mark

    def release(self) -> None:
        """Let other processes take the directory. Harmless when repeated."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def busy(path: Path, holder: str, detail: str | None = None) -> EngineError:
    """DIRECTORY_BUSY, with what to do about it."""
    return EngineError(
        errors.DIRECTORY_BUSY,
        f"data directory {path} is held by {holder}",
        hint="an embedded engine belongs to one process: stop that one, or talk to its server with --url",
        detail=detail,
    )


def held(path: Path, holder: str) -> EngineError:
    """DIRECTORY_BUSY for a directory that a process has now and may release."""
    found = busy(path, holder)
    found.headers["Retry-After"] = "1"
    return found


def is_held(path: Path) -> bool:
    """Whether a process holds a data directory."""
    try:
        lock = os.open(path / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False
