"""Rewrites what names block numbers or tables, after RESTORE has given them new numbers and UUIDs.

At the moment of the backup, everything was delivered. So every offset is set to the newest block of its log, whatever
number that block has now. Rows of the gaps of suspended views cannot be distinguished from others, because a restored
part is one block: these gaps become unknown.
"""

from __future__ import annotations

from dataclasses import replace

from engine.backup import description as descriptions
from engine.backup.description import Description, Tables
from engine.compiler.storage import RECEIPTS_TABLE
from engine.fanout.offsets import JOURNAL_TABLE, Offset
from engine.fanout.suspension_records import SUSPENDED_KIND
from engine.ingest.idempotency.stored_batches import STORED_KEY_PREFIX
from engine.plan.coverage import COVERAGE_KIND, EARLIER, Consumed
from engine.schema import Name, literal
from engine.warehouse.port import Warehouse
from engine.warehouse.registry import STATE_TABLE, Registry
from engine.workspace.journal import COMPLETE_KIND, RESTORED_KIND
from engine.workspace.restored_tables import identity_rows

UNKNOWN_LOG = "its source is unknown since a restore"
"""`Consumed.lost` of a view whose source the backup does not name. It is stored: never change it."""
GROWN = "its source had other rows than recorded when it was backed up"
"""`Consumed.lost` of a view whose record was older than the backup. It is stored: never change it."""


def renumber(warehouse: Warehouse, description: Description, restored: Tables) -> None:
    """Adapt the records of a workspace to its restored tables. The workspace can be opened afterwards."""
    workspace = description.workspace
    _set_offsets(warehouse, workspace, restored)
    _identify_receipts(warehouse, description, restored)
    registry = Registry(warehouse, workspace)
    suspended = registry.read(SUSPENDED_KIND)
    consumed = {
        view: _translated(Consumed.of(body), description.logs.get(view), description.tables, restored).as_dict()
        for view, body in registry.read(COVERAGE_KIND).items()
    }
    newest = {n.name: t.newest_block for n, t in restored.items() if n.database == workspace and t.newest_block}
    descriptions.remove(registry)
    # Atomic, with the identity: without all of it, the workspace cannot be opened.
    registry.write_all(
        {
            COVERAGE_KIND: consumed,
            SUSPENDED_KIND: {view: {**body, "missing": None} for view, body in suspended.items()},
            COMPLETE_KIND: {"blocks": newest},
            RESTORED_KIND: {"blocks": newest},
            **identity_rows(restored[Name(workspace, STATE_TABLE)].uuid),
        }
    )


def _set_offsets(warehouse: Warehouse, workspace: str, restored: Tables) -> None:
    """Set the offset of every main group to the newest block of its log."""
    if Name(workspace, JOURNAL_TABLE) not in restored:
        return
    journal = Registry(warehouse, workspace, JOURNAL_TABLE)
    kinds = warehouse.query(f"SELECT DISTINCT kind FROM {Name(workspace, JOURNAL_TABLE).sql()}").rows
    offsets = {}
    for datasource, named in journal.read_all([str(kind) for (kind,) in kinds]).items():
        table = restored.get(Name(workspace, datasource))
        # A new epoch: the tokens of its ranges differ from those of the workspace that was backed up.
        offsets[datasource] = {n: Offset.start(table.newest_block if table else 0).as_dict() for n in named}
    journal.write_all(offsets)


def _identify_receipts(warehouse: Warehouse, description: Description, restored: Tables) -> None:
    """Let the records of stored batches name the restored tables."""
    receipts = Name(description.workspace, RECEIPTS_TABLE)
    if receipts not in restored:
        return
    pairs = [(t.uuid, restored[n].uuid) for n, t in description.tables.items() if n.database == receipts.database]
    others = "owner, datasource, key, batch, rows, quarantined, tenants, logged, at"
    warehouse.execute(
        f"INSERT INTO {receipts.sql()} ({others}, digest, version) "
        f"SELECT {others}, transform(digest, {{old:Array(String)}}, {{new:Array(String)}}, ''), version + 1 "
        f"FROM {receipts.sql()} WHERE owner = '' AND startsWith(key, {literal(STORED_KEY_PREFIX)}) "
        "AND digest IN {old:Array(String)}",
        {"old": [old for old, _ in pairs], "new": [new for _, new in pairs]},
    )


def _translated(record: Consumed, log: Name | None, before: Tables, restored: Tables) -> Consumed:
    """What a view had received, in the numbers of the restored source."""
    if log is None or log not in before or log not in restored:
        return Consumed(lost=record.lost or UNKNOWN_LOG)
    newest = restored[log].newest_block
    if record.lost == EARLIER:
        # It is unknown which restored blocks went through the earlier query, so all of them count.
        return Consumed(newest, restored[log].rows, EARLIER, newest)
    lost = record.lost
    if lost is None and before[log].keeps_rows and before[log].rows and record.upto != before[log].newest_block:
        lost = GROWN
    return replace(record, upto=newest, lost=lost)
