"""Repairing deduplication logs, which tell a table which blocks it has.

The engine appends a block's identity to its table's log before it renames the block's part into place. A kill between
the two, or a rename that fails, leaves an identity without rows, and the retry that should bring them would be taken
for a duplicate. So entries at the end of a log whose rows never came to be are cut off. A full disk may also leave
half a line in the middle of a log, with which the engine refuses to load the table; what is left of such a line is
taken out. Later engines that write the log after the part leave nothing to cut.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

_PART = re.compile(r"(?P<partition>.+?)_(?P<first>\d+)_(?P<last>\d+)_\d+(?:_\d+)?")
_LOG = re.compile(r"deduplication_log_(\d+)\.txt")
_ENTRY = re.compile(rb"[12]\t[^\t\n]+\t[^\t\n]+")
_RECORD = re.compile(rb"[12]\t[A-Za-z0-9_-]+_\d+_\d+_\d+(?:_\d+)?\t[A-Za-z0-9_-]+_\d+_\d+\Z")
"""An entry as the engine writes it: what was done, the part's name, the block's identity."""
_ADD = "1"
TAIL = 4096
"""Bytes at the end of a log in which the newest entries are looked for first."""


def repair(data: Path) -> int:
    """Repair every log under a data directory that no engine has open. Returns how many entries were cut off."""
    return sum(repair_table(logs.parent) for logs in sorted((data / "store").glob("*/*/deduplication_logs")))


def repair_table(table: Path) -> int:
    """Repair the log of a table's directory, which no engine has open. Returns how many entries were cut off."""
    file = _newest(table)
    if file is None:
        return 0
    text = file.read_bytes()
    kept, cut = _kept(text, table)
    if kept != text:
        _rewrite(file, kept)
    for _, older in _logs(table / "deduplication_logs"):
        if older != file:
            _take_out_garbage(older)
    return cut


def _take_out_garbage(file: Path) -> None:
    text = file.read_bytes()
    lines = text.split(b"\n")
    lines.pop()
    kept = b"".join(line + b"\n" for line in map(_whole, lines) if line is not None)
    if kept != text:
        _rewrite(file, kept)


def _rewrite(file: Path, text: bytes) -> None:
    """Replace a log by a shorter text, in place: a full disk has no room for another file."""
    with file.open("r+b") as log:
        log.write(text)
        log.truncate(len(text))


def is_unlogged(table: Path, partition: str, number: int) -> bool:
    """Whether the log of a table that has one does not name a block. Entries go from it when later ones have come."""
    block = re.compile(rb"[12]\t%b_%d_" % (re.escape(partition.encode()), number))
    try:
        for _, file in sorted(_logs(table / "deduplication_logs"), reverse=True):
            for text in _tail_first(file):
                whole = map(_whole, text.split(b"\n")[:-1])
                if any(block.match(entry) for entry in whole if entry is not None):
                    return False
    except FileNotFoundError:
        return False
    return True


def _tail_first(file: Path) -> Iterator[bytes]:
    """The last lines of a log, where new entries are, and then all of it."""
    with file.open("rb") as log:
        if log.seek(0, os.SEEK_END) > TAIL:
            log.seek(-TAIL, os.SEEK_END)
            yield log.read()
        log.seek(0)
        yield log.read()


def unfinished(data: Path, since: float) -> list[Path]:
    """Directories of tables whose newest log was written to since a time and ends with an entry without a part."""
    found = []
    for logs in (data / "store").glob("*/*/deduplication_logs"):
        file = _newest(logs.parent)
        if file is None or file.stat().st_mtime < since:
            continue
        text = file.read_bytes()
        if _kept(text, logs.parent)[1]:
            found.append(logs.parent)
    return found


def _kept(text: bytes, table: Path) -> tuple[bytes, int]:
    """What of a log stays, and how many entries do not."""
    lines = text.split(b"\n")
    cut = 1 if lines.pop() else 0
    whole = [_whole(line) for line in lines]
    entries = [line for line in whole if line is not None]
    while entries and not _came_to_be(entries[-1].decode(errors="replace"), table):
        entries.pop()
        cut += 1
    return b"".join(line + b"\n" for line in entries), cut


def _whole(line: bytes) -> bytes | None:
    """The entry in a line; what a write that failed half-way has left in front of it is left out."""
    if _ENTRY.fullmatch(line):
        return line
    found = _RECORD.search(line)
    return found[0] if found is not None else None


def _newest(table: Path) -> Path | None:
    found = max(_logs(table / "deduplication_logs"), default=None)
    return found[1] if found is not None else None


def _logs(logs: Path) -> Iterator[tuple[int, Path]]:
    for file in logs.iterdir():
        found = _LOG.fullmatch(file.name)
        if found and file.stat().st_size:
            yield int(found.group(1)), file


def _came_to_be(line: str, table: Path) -> bool:
    """Whether an entry may stay: it drops an identity, or a part holds the block that it names."""
    fields = line.split("\t")
    if len(fields) != 3:
        return False
    operation, name, _ = fields
    part = _PART.fullmatch(name)
    if operation != _ADD or part is None:
        return True
    number = int(part["first"])
    for directory in table.iterdir():
        other = _PART.fullmatch(directory.name)
        if other and other["partition"] == part["partition"] and int(other["first"]) <= number <= int(other["last"]):
            return True
    return False
