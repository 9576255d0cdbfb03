"""Checks the disk of the workspace: whether it has space for more rows, and whether parts have missing or empty
files.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from engine.errors import DISK_FULL, RookeryError
from engine.schema import Name
from engine.warehouse.catalog import table_directories
from engine.warehouse.part_names import Part, active_parts, parts_in
from engine.warehouse.parts import why_damaged
from engine.warehouse.port import Space
from engine.workspace.workspace import Workspace

MAX_RESERVE_BYTES = 256 << 20
RESERVE_SHARE = 20
"""The default reserve is the disk's size divided by this, and at most MAX_RESERVE_BYTES."""
NEARLY_FULL_RESERVES = 3
"""A disk with less free space than this multiple of the reserve is nearly full."""
READY_RESERVES = 2
"""With less free space than this multiple of the reserve, larger requests are refused and the server is not ready."""
WRITE_AMPLIFICATION = 3
"""Maximum bytes on disk for each byte of a request, including everything derived from it."""

OWN_DATABASES = "(database = {w:String} OR startsWith(database, concat({w:String}, '_nest')))"
"""SQL condition: the database is the workspace's own, or a nest."""
_PART = re.compile(r"[^_]+(?:_\d+){3,4}")
"""The directory of an active part: partition, blocks, level, and mutation."""


@dataclass(frozen=True, slots=True)
class Damage:
    """A part that cannot be read, and why."""

    table: Name
    part: str
    why: str


def reserve_of(workspace: Workspace, space: Space) -> int:
    """Number of bytes that are kept free for records, merges and everything derived from rows."""
    configured = workspace.settings.min_free
    return configured if configured is not None else min(MAX_RESERVE_BYTES, space.total // RESERVE_SHARE)


def shortage(workspace: Workspace, size: int | None = None) -> str | None:
    """Why there is not enough space for `size` bytes of rows; None if there is, or if the free space is not known.

    Without a size, returns why the server is not ready.
    """
    space = workspace.warehouse.disk_space()
    if space is None:
        return None
    reserve = reserve_of(workspace, space)
    if space.free >= (READY_RESERVES * reserve if size is None else reserve + WRITE_AMPLIFICATION * size):
        return None
    return f"{space.free >> 20:,} MiB are free on the disk of {space.path}, of {space.total >> 20:,}"


def require_space(workspace: Workspace, size: int) -> None:
    """Raise RK6008 unless there is space for `size` bytes of rows. Does nothing for a ClickHouse server.

    rookery checks this itself, because the engine ignores some failed writes on a full disk. For a ClickHouse server,
    this is the job of the server's own settings, and rookery examines its disk only in health checks.
    """
    if not workspace.warehouse.capabilities.embedded:
        return
    why = shortage(workspace, size)
    if why is not None:
        raise RookeryError(
            DISK_FULL,
            DISK_FULL.title,
            hint="free space on the disk of the data directory, then repeat the request; the reserve is "
            "ROOKERY_MIN_FREE",
            detail=why,
            headers={"Retry-After": "10"},
        )


def require_spool_space(workspace: Workspace, space: Space, size: int) -> None:
    """Raise RK6008 if a temporary file of `size` bytes would leave the disk nearly full."""
    if space.free - NEARLY_FULL_RESERVES * reserve_of(workspace, space) >= size:
        return
    raise RookeryError(
        DISK_FULL,
        "the file is too large for the disk of temporary files",
        hint="send it in smaller files, or free space on the disk that TMPDIR names",
        detail=f"{space.free >> 20:,} MiB are free on the disk of {space.path}, of {space.total >> 20:,}",
        headers={"Retry-After": "10"},
    )


def damaged_parts(workspace: Workspace) -> Iterator[Damage]:
    """Parts that the engine has detached as broken, and active parts with missing or empty files.

    Only an embedded engine's files are checked, and only to see whether they exist and are not empty.
    """
    broken = workspace.warehouse.query(
        "SELECT database, table, name FROM system.detached_parts "
        f"WHERE {OWN_DATABASES} AND startsWith(name, 'broken') ORDER BY ALL",
        {"w": workspace.name},
    )
    for database, table, part in broken.rows:
        yield Damage(Name(database, table), part, "the engine detached it as broken")
    if not workspace.warehouse.capabilities.embedded:
        return
    active = workspace.warehouse.query(
        f"SELECT database, table, name, path FROM system.parts WHERE active AND {OWN_DATABASES} ORDER BY ALL",
        {"w": workspace.name},
    )
    listed = {Name(database, table) for database, table, _, _ in active.rows}
    for database, table, part, path in active.rows:
        directory = Path(path)
        why = why_damaged(directory)
        # A merge may have removed the directory since the query above.
        if not directory.is_dir() and directory.parent.is_dir() and not _covered(directory):
            why = "its directory is missing"
        if why is not None:
            yield Damage(Name(database, table), part, why)
    yield from _damaged_in_unlisted(workspace, listed)


def _damaged_in_unlisted(workspace: Workspace, listed: set[Name]) -> Iterator[Damage]:
    """Damage in tables whose parts the engine does not list."""
    for name, directory in _unlisted(workspace, listed):
        for part in sorted(p for p in directory.iterdir() if _PART.fullmatch(p.name) and not _covered(p)):
            if (why := why_damaged(part)) is not None:
                yield Damage(name, part.name, why)
        broken = sorted(p.name for p in (directory / "detached").glob("broken*"))
        for part_name in broken:
            yield Damage(name, part_name, "the engine detached it as broken")


def _unlisted(workspace: Workspace, listed: Collection[Name]) -> Iterator[tuple[Name, Path]]:
    """Tables that the engine loads on first use, with their directories. Until then, it does not list their parts."""
    if workspace.warehouse.capabilities.lazy_tables:
        for name, directory in table_directories(workspace.warehouse, OWN_DATABASES, {"w": workspace.name}):
            if name not in listed and directory.is_dir():
                yield name, directory


@dataclass(frozen=True, slots=True)
class PartCount:
    """The number of active parts in one partition of a table."""

    table: Name
    partition: str
    parts: int


def part_counts(workspace: Workspace, at_least: int) -> list[PartCount]:
    """Partitions with at least this many active parts, largest first. Parts of unloaded tables are counted too."""
    listed = workspace.warehouse.query(
        "SELECT database, table, partition, count() AS parts FROM system.parts "
        f"WHERE active AND {OWN_DATABASES} GROUP BY database, table, partition",
        {"w": workspace.name},
    )
    counts = [PartCount(Name(database, table), str(name), int(n)) for database, table, name, n in listed.rows]
    for table, directory in _unlisted(workspace, {c.table for c in counts}):
        partitions = Counter(part.partition for part in active_parts(directory))
        counts += [PartCount(table, name, n) for name, n in partitions.items()]
    return sorted((c for c in counts if c.parts >= at_least), key=lambda c: (-c.parts, c.table, c.partition))


def _covered(part: Path) -> bool:
    """Whether a directory next to that of a part has a part that was made from it. The part itself may be gone."""
    own = Part.of(part.name)
    return own is None or any(other.covers(own) for other in parts_in(part.parent).values())
