"""The disk under the workspace: whether it has room for more rows, and parts whose files are missing or empty."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from engine.errors import DISK_FULL, RookeryError
from engine.schema import Name
from engine.warehouse.parts import why_damaged
from engine.warehouse.port import Space
from engine.workspace.workspace import Workspace

MAX_RESERVE_BYTES = 256 << 20
RESERVE_SHARE = 20
"""Without a setting, the reserve is one part in so many of the disk, and at most MOST_RESERVE bytes."""
NEARLY_FULL_RESERVES = 3
"""With less free than so many times the reserve, a disk is nearly full."""
READY_RESERVES = 2
"""With less free than so many times the reserve, larger requests are refused already, and the server is not ready."""
WRITE_AMPLIFICATION = 3
"""Bytes that storing one byte of a request may take, with what is made from it."""

_PART = re.compile(r"[^_]+(?:_\d+){3,4}")
"""The directory of an active part: partition, blocks, level, and mutation."""


@dataclass(frozen=True, slots=True)
class Damage:
    """A part that cannot be read, and why."""

    table: Name
    part: str
    why: str


def reserve_of(workspace: Workspace, space: Space) -> int:
    """Bytes that are kept free for notes, merges and what is made from rows."""
    given = workspace.settings.min_free
    return given if given is not None else min(MAX_RESERVE_BYTES, space.total // RESERVE_SHARE)


def shortage(workspace: Workspace, size: int | None = None) -> str | None:
    """Why rows of so many bytes are not stored for want of space; None when there is room, or it is not known.

    Without a size: why the disk is so full that the server is not ready.
    """
    space = workspace.warehouse.disk_space()
    if space is None:
        return None
    reserve = reserve_of(workspace, space)
    if space.free >= (READY_RESERVES * reserve if size is None else reserve + WRITE_AMPLIFICATION * size):
        return None
    return f"{space.free >> 20:,} MiB are free on the disk of {space.path}, of {space.total >> 20:,}"


def require_space(workspace: Workspace, size: int) -> None:
    """Raise RK6008 unless rows of so many bytes find room.

    The engine ignores some writes that fail for want of space, so it is not left to it to notice. A server's disk is
    asked for only by the health checks: its own settings guard it.
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
    """Raise RK6008 for a temporary file of so many bytes on a disk that has less than that left for others."""
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
    """Parts that the engine has put aside as broken, and active parts with files that are missing or empty.

    Files are only looked at where the engine is embedded; their contents are not read.
    """
    ours = "(database = {w:String} OR startsWith(database, concat({w:String}, '_nest')))"
    broken = workspace.warehouse.query(
        f"SELECT database, table, name FROM system.detached_parts WHERE {ours} AND startsWith(name, 'broken') "
        "ORDER BY ALL",
        {"w": workspace.name},
    )
    for database, table, part in broken.rows:
        yield Damage(Name(database, table), part, "the engine found it broken and put it aside")
    if not workspace.warehouse.capabilities.embedded:
        return
    active = workspace.warehouse.query(
        f"SELECT database, table, name, path FROM system.parts WHERE active AND {ours} ORDER BY ALL",
        {"w": workspace.name},
    )
    listed = {Name(database, table) for database, table, _, _ in active.rows}
    for database, table, part, path in active.rows:
        directory = Path(path)
        why = why_damaged(directory)
        if not directory.is_dir() and directory.parent.is_dir() and not _covered(directory):
            why = "its directory is missing"
        if why is not None:
            yield Damage(Name(database, table), part, why)
    yield from _damaged_in_unlisted(workspace, ours, listed)


def _damaged_in_unlisted(workspace: Workspace, ours: str, listed: set[Name]) -> Iterator[Damage]:
    """Damage in tables that the engine loads when they are touched. It lists none of their parts until then."""
    if not workspace.warehouse.capabilities.lazy_tables:
        return
    tables = workspace.warehouse.query(
        "SELECT * FROM (SELECT database, name AS table, arrayJoin(data_paths) AS path FROM system.tables "
        f"WHERE engine LIKE '%MergeTree') WHERE {ours} ORDER BY ALL",
        {"w": workspace.name},
    )
    for database, table, path in tables.rows:
        name, directory = Name(database, table), Path(path)
        if name in listed or not directory.is_dir():
            continue
        for part in sorted(p for p in directory.iterdir() if _PART.fullmatch(p.name) and not _covered(p)):
            if (why := why_damaged(part)) is not None:
                yield Damage(name, part.name, why)
        broken = sorted(p.name for p in (directory / "detached").glob("broken*"))
        for found in broken:
            yield Damage(name, found, "the engine found it broken and put it aside")


def _covered(part: Path) -> bool:
    """Whether another part directory holds the blocks of one that is gone."""
    fields = part.name.split("_")
    if len(fields) < 4 or not (fields[1].isdigit() and fields[2].isdigit()):
        return True
    for other in part.parent.glob(f"{fields[0]}_*"):
        theirs = other.name.split("_")
        known = len(theirs) >= 4 and theirs[1].isdigit() and theirs[2].isdigit() and other.name != part.name
        if known and int(theirs[1]) <= int(fields[1]) and int(fields[2]) <= int(theirs[2]):
            return True
    return False
