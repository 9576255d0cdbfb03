"""Rows of purged tenants, from senders whose tokens have no tenant. Nothing of such a row is stored.

A purge erases a tenant's rows everywhere. A collector may still send rows with its id, which would otherwise be
stored like those of any tenant that does not exist yet. Quarantine gets an empty row for each of them, with the
reason.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from engine.ingest.batch import RejectedRow, StagedBatch
from engine.warehouse.port import Input, Warehouse


def purged_among(warehouse: Warehouse, batch: StagedBatch, rows: str, purged: Collection[str]) -> list[str]:
    """The purged tenants that have rows in a part of a batch's stage. `rows` is SQL to select from.

    A token that is bound to a tenant is refused if its tenant was purged, and cannot write for others.
    """
    tenant = batch.schema.tenant
    if not purged or tenant is None or batch.bound is not None:
        return []
    found = warehouse.query(f"SELECT DISTINCT toString({tenant.value}) FROM {rows}")
    return sorted({str(id) for (id,) in found.rows}.intersection(purged))


def purged_reason(tenant: str) -> str:
    """Why a row of a purged tenant is not stored."""
    return f"tenant `{tenant}` was purged; its rows are stored again after `rookery tenant add {tenant}`"


def without_values(row: RejectedRow, column: str, purged: Collection[str]) -> RejectedRow:
    """A bad row without its text and values, if its tenant was purged. Otherwise the row as it is.

    `column` is the tenant column.
    """
    tenant = row.values.get(column)
    if tenant is None or tenant not in purged:
        return row
    return replace(
        row,
        text=b"",
        format=Input.NDJSON,
        header=b"",
        columns=[column],
        reasons=[purged_reason(tenant)],
        values={column: tenant},
    )
