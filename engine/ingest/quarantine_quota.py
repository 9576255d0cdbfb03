"""How much of a datasource's quarantine one writer may fill.

The ids of rows in quarantine begin with their writer's mark, so that the table itself tells how much is there. The
numbers are kept in memory and read again when they say that there is no more room, since rows may have been removed.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass

from engine.ingest import quarantine
from engine.ingest.batch import RejectedRow
from engine.workspace.workspace import Workspace

MARK_CHARACTERS = 8
"""Characters of a mark."""
CACHED_WRITERS = 10_000
"""Writers whose share is kept in memory."""


def mark_of(writer: str) -> str:
    """What the ids of a writer's rows in quarantine begin with."""
    return hashlib.blake2b(writer.encode(), digest_size=MARK_CHARACTERS // 2).hexdigest()


@dataclass(slots=True)
class _Share:
    """What a writer has in a quarantine."""

    rows: int
    bytes: int


class QuarantineQuota:
    """Decides which bad rows are kept."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._shares: dict[tuple[str, str], _Share] = {}
        self._lock = threading.Lock()

    def admitted(self, datasource: str, writer: str, bad: Mapping[int, RejectedRow]) -> dict[int, RejectedRow]:
        """Those of a writer's bad rows for which there is room, which is taken."""
        key = (datasource, mark_of(writer))
        with self._lock:
            share = self._shares.pop(key, None)
            if share is None or not self._all_fit(share, bad):
                share = self._read(*key)
            self._shares[key] = share
            if len(self._shares) > CACHED_WRITERS:
                del self._shares[next(iter(self._shares))]
            return {n: row for n, row in sorted(bad.items()) if self._take(share, row)}

    def _all_fit(self, share: _Share, bad: Mapping[int, RejectedRow]) -> bool:
        settings = self._workspace.settings
        size = sum(map(_size, bad.values()))
        return share.rows + len(bad) <= settings.quarantine_rows and share.bytes + size <= settings.quarantine_bytes

    def _take(self, share: _Share, row: RejectedRow) -> bool:
        settings, size = self._workspace.settings, _size(row)
        if share.rows >= settings.quarantine_rows or share.bytes + size > settings.quarantine_bytes:
            return False
        share.rows += 1
        share.bytes += size
        return True

    def _read(self, datasource: str, mark: str) -> _Share:
        table = quarantine.table_of(self._workspace, datasource).sql()
        found = self._workspace.warehouse.query(
            f"SELECT count(), sum(length(c__text) + length(c__header)) FROM {table} "
            "WHERE startsWith(c__id, {m:String}) AND length(c__id) > 16",
            {"m": mark},
        )
        rows, size = found.rows[0]
        return _Share(int(rows), int(size))


def _size(row: RejectedRow) -> int:
    return len(row.text) + len(row.header)
