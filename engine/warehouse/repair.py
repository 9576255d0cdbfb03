"""Mending deduplication logs before the engine opens its directory.

The engine appends a block's identity to its table's log before it renames the block's part into place. A kill between
the two leaves an identity without rows, and the retry that should bring them would be taken for a duplicate. So
entries at the end of a log whose rows never came to be are cut off. Later engines that write the log after the part
leave nothing to cut.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

_PART = re.compile(r"(?P<partition>.+?)_(?P<first>\d+)_(?P<last>\d+)_\d+(?:_\d+)?")
_LOG = re.compile(r"deduplication_log_(\d+)\.txt")
_ADD = "1"


def repair(data: Path) -> int:
    """Mend every log under a data directory that no engine has open. Returns how many entries were cut off."""
    return sum(_mend(logs) for logs in sorted((data / "store").glob("*/*/deduplication_logs")))


def _mend(logs: Path) -> int:
    newest = max(_logs(logs), default=None)
    if newest is None:
        return 0
    file = newest[1]
    text = file.read_bytes()
    lines = text.split(b"\n")
    torn = lines.pop()
    cut = 1 if torn else 0
    while lines and not _came_to_be(lines[-1].decode(errors="replace"), logs.parent):
        lines.pop()
        cut += 1
    if cut:
        kept = b"".join(line + b"\n" for line in lines)
        with file.open("r+b") as log:
            log.truncate(len(kept))
    return cut


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
