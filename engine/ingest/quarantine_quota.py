"""The quota in quarantine: how much of a datasource's quarantine one writer may fill.

The ids of quarantined rows begin with a prefix derived from their writer, and rows name the tenant of their writer's
token, so the table itself shows how much a writer uses. The numbers are cached, and read again when the quota seems
used up, because rows may have been removed.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass

from engine.ingest import quarantine
from engine.ingest.batch import Append, RejectedRow
from engine.workspace.workspace import Workspace

PREFIX_CHARACTERS = 8
CACHED_WRITERS = 10_000
"""Maximum number of pairs of writer and datasource whose usage is cached."""


def id_prefix(writer: str) -> str:
    """The prefix of the ids of a writer's rows in quarantine."""
    return hashlib.blake2b(writer.encode(), digest_size=PREFIX_CHARACTERS // 2).hexdigest()


@dataclass(slots=True)
class _Usage:
    """How much of a datasource's quarantine a writer uses."""

    rows: int
    bytes: int
    """Bytes of the rows' text and headers."""


class QuarantineQuota:
    """Decides which bad rows are kept. Safe for threads."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._usage: dict[tuple[str, str], _Usage] = {}
        """By datasource and writer."""
        # Also held while usage is read, so that two batches of a writer do not both use the same free space.
        self._lock = threading.Lock()

    def admit(self, append: Append, rejected: Mapping[int, RejectedRow]) -> dict[int, RejectedRow]:
        """Count an append's bad rows against its writer's quota. Returns those that are within it."""
        key = (append.datasource, append.writer)
        with self._lock:
            # Removing and inserting the key keeps the dictionary in order of use.
            usage = self._usage.pop(key, None)
            if usage is None or not self._all_fit(usage, rejected):
                usage = self._read(append)
            self._usage[key] = usage
            if len(self._usage) > CACHED_WRITERS:
                del self._usage[next(iter(self._usage))]
            return {n: row for n, row in sorted(rejected.items()) if self._admit_row(usage, row)}

    def _all_fit(self, usage: _Usage, rejected: Mapping[int, RejectedRow]) -> bool:
        """Whether all rejected rows are within the quota."""
        settings = self._workspace.settings
        size = sum(map(_size, rejected.values()))
        rows_fit = usage.rows + len(rejected) <= settings.quarantine_rows
        return rows_fit and usage.bytes + size <= settings.quarantine_bytes

    def _admit_row(self, usage: _Usage, row: RejectedRow) -> bool:
        """Count a row, if it is within the quota. Returns whether it is."""
        settings, size = self._workspace.settings, _size(row)
        if usage.rows >= settings.quarantine_rows or usage.bytes + size > settings.quarantine_bytes:
            return False
        usage.rows += 1
        usage.bytes += size
        return True

    def _read(self, append: Append) -> _Usage:
        """Read a writer's usage from the table. Ids of 16 characters are of an earlier version and have no prefix."""
        table = quarantine.table_of(self._workspace, append.datasource).sql()
        result = self._workspace.warehouse.query(
            # With very many tenants, two of them may have the same prefix.
            f"SELECT count(), sum(length(c__text) + length(c__header)) FROM {table} "
            "WHERE startsWith(c__id, {m:String}) AND length(c__id) > 16 AND c__writer = {w:String}",
            {"m": id_prefix(append.writer), "w": append.bound_tenant or ""},
        )
        rows, size = result.rows[0]
        return _Usage(int(rows), int(size))


def _size(row: RejectedRow) -> int:
    """The bytes that a row counts for."""
    return len(row.text) + len(row.header)
