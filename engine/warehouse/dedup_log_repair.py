"""Repairs deduplication logs, in which a table records the blocks that it has stored.

The engine appends a block's identity to the log before it renames the block's part into place. If the process is
killed between the two, or the rename fails, the log has an identity without rows, and the engine would drop a retry
as a duplicate. Entries at the end of a log without a part are therefore cut off. A full disk can also leave half a
line in the middle of a log, and the engine then refuses to load the table; such lines are removed. Later versions of
the engine write the log after the part, and do not need either repair.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from engine.warehouse.part_names import Part, parts_in

_LOG = re.compile(r"deduplication_log_(\d+)\.txt")
_ENTRY = re.compile(rb"[12]\t[^\t\n]+\t[^\t\n]+")
_RECORD = re.compile(rb"[12]\t[A-Za-z0-9_-]+_\d+_\d+_\d+(?:_\d+)?\t[A-Za-z0-9_-]+_\d+_\d+\Z")
"""An entry as the engine writes it: the operation, the name of the part, and the identity of the block."""
_ADD = "1"
TAIL_BYTES = 4096
"""Size of the end of a log that is searched before the whole log."""


def repair(data: Path) -> int:
    """Repair all logs in a data directory that no engine has open. Returns the number of entries cut off."""
    return sum(repair_table(logs.parent) for logs in sorted((data / "store").glob("*/*/deduplication_logs")))


def repair_table(table: Path, after: int | None = None) -> int:
    """Repair the logs in a table's directory while no engine has it open. Returns the number of entries removed.

    With `after`, entries of later blocks without a part are also removed if other entries follow.
    """
    file = _newest(table)
    if file is None:
        return 0
    text = file.read_bytes()
    repaired, cut = _repaired(text, table, after)
    if repaired != text:
        _rewrite(file, repaired)
    # New entries are only added to the newest log, so only its end can have an entry without a part.
    for _, older in _logs(table / "deduplication_logs"):
        if older != file:
            _remove_broken_lines(older)
    return cut


def _remove_broken_lines(file: Path) -> None:
    text = file.read_bytes()
    lines = text.split(b"\n")
    lines.pop()
    repaired = b"".join(line + b"\n" for line in map(_whole, lines) if line is not None)
    if repaired != text:
        _rewrite(file, repaired)


def _rewrite(file: Path, text: bytes) -> None:
    """Replace the contents of a log with shorter ones. Done in place, because a full disk has no space for a second
    file.
    """
    with file.open("r+b") as log:
        log.write(text)
        log.truncate(len(text))


def is_unlogged(table: Path, partition: str, number: int) -> bool:
    """Whether a table has a log that does not contain this block. The engine drops old entries from its logs."""
    block = re.compile(rb"[12]\t%b_%d_" % (re.escape(partition.encode()), number))
    try:
        for _, file in sorted(_logs(table / "deduplication_logs"), reverse=True):
            for text in _tail_first(file):
                whole = map(_whole, text.split(b"\n")[:-1])
                if any(block.match(entry) for entry in whole if entry is not None):
                    return False
    except FileNotFoundError:
        # The table has no log, or the engine has just replaced one, so the state is unknown.
        return False
    return True


def _tail_first(file: Path) -> Iterator[bytes]:
    """Yield the end of a log, where new entries are, and then all of it."""
    with file.open("rb") as log:
        if log.seek(0, os.SEEK_END) > TAIL_BYTES:
            log.seek(-TAIL_BYTES, os.SEEK_END)
            yield log.read()
        log.seek(0)
        yield log.read()


def unfinished(data: Path, since: float) -> list[Path]:
    """The directories of tables whose newest log ends with an entry without a part.

    Logs that were last written before `since` (Unix seconds) are skipped.
    """
    tables = []
    for logs in (data / "store").glob("*/*/deduplication_logs"):
        file = _newest(logs.parent)
        if file is not None and file.stat().st_mtime >= since and is_unfinished(logs.parent):
            tables.append(logs.parent)
    return tables


def is_unfinished(table: Path, after: int | None = None) -> bool:
    """Whether the newest log in a table's directory ends with an entry without a part.

    With `after`, whether it has any such entry of a later block.
    """
    file = _newest(table) if (table / "deduplication_logs").is_dir() else None
    return file is not None and _repaired(file.read_bytes(), table, after)[1] > 0


def _repaired(text: bytes, table: Path, after: int | None = None) -> tuple[bytes, int]:
    """The repaired contents of a log, and the number of entries without a part that were removed.

    They are removed at the end of the log and, for blocks after `after`, anywhere.
    """
    lines = text.split(b"\n")
    # A complete log ends with a line break. Anything after it is half an entry.
    cut = 1 if lines.pop() else 0
    entries = [entry for entry in map(_whole, lines) if entry is not None]
    while entries and not _is_stored(entries[-1].decode(errors="replace"), table):
        entries.pop()
        cut += 1
    if after is not None:
        stored = [e for e in entries if _number(e) <= after or _is_stored(e.decode(errors="replace"), table)]
        cut += len(entries) - len(stored)
        entries = stored
    return b"".join(line + b"\n" for line in entries), cut


def _number(entry: bytes) -> int:
    """The number of an entry's block; 0 if it has none."""
    part = Part.of(entry.split(b"\t")[1].decode(errors="replace"))
    return part.first if part is not None else 0


def _whole(line: bytes) -> bytes | None:
    """The entry in a line, without the beginning of an earlier failed write; None if there is no entry."""
    if _ENTRY.fullmatch(line):
        return line
    match = _RECORD.search(line)
    return match[0] if match is not None else None


def _newest(table: Path) -> Path | None:
    newest = max(_logs(table / "deduplication_logs"), default=None)
    return newest[1] if newest is not None else None


def _logs(logs: Path) -> Iterator[tuple[int, Path]]:
    """The non-empty logs of a table with their numbers. Later logs have higher numbers."""
    for file in logs.iterdir():
        match = _LOG.fullmatch(file.name)
        # Repairing a link would change a file elsewhere; the engine makes none.
        if match and not file.is_symlink() and file.stat().st_size:
            yield int(match[1]), file


def _is_stored(line: str, table: Path) -> bool:
    """Whether an entry can stay: it removes an identity, or a part contains its block."""
    fields = line.split("\t")
    if len(fields) != 3:
        return False
    operation, name, _ = fields
    part = Part.of(name)
    if operation != _ADD or part is None:
        return True
    # A merge or mutation may have replaced the part since, so its own name is not searched for.
    return any(o.partition == part.partition and o.first <= part.first <= o.last for o in parts_in(table).values())
