"""A copy of the embedded engine's directory at one moment, made of hard links while the engine runs.

The engine never changes the files of a part, so a part is copied by linking its files. Most parts are linked before
the moment, so that only newer ones are linked while statements wait. The small files that the engine does change,
such as the logs of deduplication tokens, are copied.

Merges continue. They replace parts, but the engine keeps the source parts for a while. A listing of a table's parts
is therefore complete, whether it shows the sources, the result, or both.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from engine.schema import Name
from engine.warehouse.layout_version import VERSION_FILE
from engine.warehouse.part_names import Part

COPIES = "rookery.copies"
"""The directory for copies, within the engine's directory because links cannot cross file systems."""
_UUID = re.compile(r"\bUUID '([0-9a-f]{8}-[0-9a-f-]{27})'")
_TEMPORARY = ("tmp", "delete_tmp", "moving")
"""Prefixes of what the engine is still writing or already deleting."""
CANNOT_LINK = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
"""Numbers of the errors of file systems without hard links."""
_LISTINGS = 20
"""Maximum number of times that a table is listed again because parts vanished."""


@dataclass(frozen=True, slots=True)
class CopiedTable:
    """The size of a table in a copy."""

    name: Name
    rows: int
    """Stored rows, before the engine combines them in merges."""
    parts: int
    newest_block: int
    """Number of the newest block of the table's log; 0 if it is empty."""


@dataclass(frozen=True, slots=True)
class _Table:
    """A table with stored rows, and its directory relative to the engine's."""

    name: Name
    directory: Path


class DirectoryCopy:
    """A copy of `source` in `path`. Call `link`, `finish` and `prune` in this order, and finally `remove`."""

    def __init__(self, source: Path) -> None:
        self.source = source
        (source / COPIES).mkdir(mode=0o700, exist_ok=True)
        self.path = Path(tempfile.mkdtemp(dir=source / COPIES))
        self._linked: dict[Path, set[str]] = {}
        """The linked parts of each table's directory."""
        self._listed: dict[Path, set[str]] = {}
        """The parts at the moment of the copy."""
        self._tables: list[_Table] = []

    def link(self) -> None:
        """Link the parts that exist now, so that fewer remain for `finish`."""
        for table in _tables(self.source):
            for part in _parts(self.source / table.directory):
                self._link_part(table.directory, part)

    def finish(self) -> None:
        """Complete the copy. No statement may change the directory meanwhile; merges may run."""
        self._tables = list(_tables(self.source))
        for table in self._tables:
            self._copy_table(table.directory)
        self._copy_metadata()

    def prune(self) -> None:
        """Remove links to parts that no longer existed at the moment of the copy."""
        for directory, parts in self._linked.items():
            if directory not in self._listed:
                shutil.rmtree(self.path / directory)
                continue
            for part in parts - self._listed[directory]:
                shutil.rmtree(self.path / directory / part)

    def tables(self) -> Iterator[CopiedTable]:
        """The tables with stored rows."""
        for table in self._tables:
            parts = {name: part for name in self._listed[table.directory] if (part := Part.of(name)) is not None}
            active = [n for n, part in parts.items() if not any(other.covers(part) for other in parts.values())]
            rows = sum(_rows(self.path / table.directory / name) for name in active)
            yield CopiedTable(table.name, rows, len(active), max((p.last for p in parts.values()), default=0))

    def remove(self) -> None:
        """Remove the copy. The engine's own files are not affected."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _copy_table(self, directory: Path) -> None:
        """Copy a table: link its parts, and copy its other files."""
        source, target = self.source / directory, self.path / directory
        target.mkdir(parents=True, exist_ok=True)
        for _ in range(_LISTINGS):
            listed = _parts(source)
            complete = all(self._link_part(directory, part) for part in listed)
            # If a part vanished, the new listing shows the part that replaced it.
            if complete and listed <= _parts(source):
                break
        else:
            raise RuntimeError(f"the parts of {source} kept changing")
        self._listed[directory] = listed
        for entry in _entries(source):
            if entry.name.startswith(_TEMPORARY) or entry.name in listed:
                continue
            # The engine may remove the record of a mutation that has finished.
            with suppress(FileNotFoundError):
                if entry.name == "detached":
                    _link_tree(Path(entry.path), target / entry.name)
                elif not entry.is_dir(follow_symlinks=False):
                    shutil.copyfile(entry.path, target / entry.name)
                elif Part.of(entry.name) is None:
                    _copy_tree(Path(entry.path), target / entry.name)

    def _copy_metadata(self) -> None:
        """Copy the definitions of databases and tables, the links to them, and the layout version."""
        for directory in (Path("metadata"), *_databases(self.source).values()):
            (self.path / directory).mkdir(parents=True, exist_ok=True)
            for entry in _entries(self.source / directory):
                target = self.path / directory / entry.name
                if entry.is_symlink():
                    target.symlink_to(Path(entry.path).readlink())
                elif entry.name.endswith(".sql"):
                    shutil.copyfile(entry.path, target)
        if (self.source / VERSION_FILE).exists():
            shutil.copyfile(self.source / VERSION_FILE, self.path / VERSION_FILE)

    def _link_part(self, directory: Path, part: str) -> bool:
        """Link a part unless it is already linked. Returns whether it still existed."""
        linked = self._linked.setdefault(directory, set())
        if part in linked:
            return True
        target = self.path / directory / part
        try:
            _link_tree(self.source / directory / part, target)
        except FileNotFoundError:
            shutil.rmtree(target, ignore_errors=True)
            return False
        linked.add(part)
        return True


def remove_copies(directory: Path) -> None:
    """Remove copies that a killed process left in the engine's directory."""
    shutil.rmtree(directory / COPIES, ignore_errors=True)


def _databases(source: Path) -> dict[str, Path]:
    """The directories with the definitions of each database's tables."""
    found = {}
    for file in (source / "metadata").glob("*.sql"):
        if (uuid := _uuid(file)) is not None:
            found[unquote(file.stem)] = _stored(uuid)
    return found


def _tables(source: Path) -> Iterator[_Table]:
    """The tables that have a directory."""
    for database, directory in _databases(source).items():
        for file in (source / directory).glob("*.sql"):
            uuid = _uuid(file)
            if uuid is not None and (source / _stored(uuid)).is_dir():
                yield _Table(Name(database, unquote(file.stem)), _stored(uuid))


def _uuid(file: Path) -> str | None:
    """The UUID in a definition; None if it has none, or if it was just dropped."""
    try:
        # A damaged file may have any bytes. The engine reports it.
        found = _UUID.search(file.read_text(encoding="utf-8", errors="replace"))
    except FileNotFoundError:
        return None
    return found[1] if found else None


def _stored(uuid: str) -> Path:
    return Path("store", uuid[:3], uuid)


def _parts(table: Path) -> set[str]:
    """The complete parts in the directory of a table."""
    names = (e.name for e in _entries(table) if e.is_dir(follow_symlinks=False))
    return {n for n in names if Part.of(n) is not None and not n.startswith(_TEMPORARY)}


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return list(entries)
    except FileNotFoundError:
        return []


def _rows(part: Path) -> int:
    """The number of rows in a part."""
    try:
        return int((part / "count.txt").read_text())
    except (OSError, ValueError):
        return 0


def _link_tree(source: Path, target: Path) -> None:
    """Link the files in a directory. Raises FileNotFoundError if the directory or a file vanishes."""
    target.mkdir(parents=True)
    with os.scandir(source) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                _link_tree(Path(entry.path), target / entry.name)
            else:
                _link(entry.path, target / entry.name)


def _copy_tree(source: Path, target: Path) -> None:
    """Copy a directory. Unlike `shutil.copytree`, raises the first error itself, with its number."""
    target.mkdir(parents=True)
    for entry in _entries(source):
        if entry.is_dir(follow_symlinks=False):
            _copy_tree(Path(entry.path), target / entry.name)
        else:
            shutil.copyfile(entry.path, target / entry.name)


def _link(source: str, target: Path) -> None:
    """A hard link, or a copy where the file system has no hard links."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as exc:
        if exc.errno not in CANNOT_LINK:
            raise
        shutil.copyfile(source, target)
