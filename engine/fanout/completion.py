"""Completing the insert that a killed process was in the middle of.

Its rows may be in landing and not in all the views that hang on it. The batch is inserted from landing once more
under its own token: landing and every view that has it know it again, the others take it. One batch at a time lands
per datasource, so only the newest can be in doubt; and none that landed before a view was made, which got it as
history.
"""

from __future__ import annotations

import structlog

from engine.errors import RookeryError
from engine.fanout.lane import OURS
from engine.fanout.log import Log
from engine.fanout.poison import Block
from engine.fanout.suspend import insert_to_all
from engine.plan.state import Workspace
from engine.schema import quote
from engine.warehouse import ddl

log = structlog.get_logger("rookery.fanout")

LOOK_BACK = 16
"""Blocks among which the newest batch of ours is looked for. Others may insert meanwhile, but targets remember only
so many parts, and what they have forgotten they would take again."""


def complete(workspace: Workspace) -> None:
    """Complete the newest batch of every landing datasource."""
    settled = workspace.registry.read("settled").get("blocks", {})
    for name, relation in workspace.current.build.relations.items():
        if relation.kind != "landing":
            continue
        try:
            _complete(workspace, Log(workspace.warehouse, workspace.name, relation), int(settled.get(name, 0)))
        except RookeryError as exc:
            log.error("the last batch could not be completed", datasource=name, error=exc.detail or exc.message)


def _complete(workspace: Workspace, landing: Log, settled: int) -> None:
    newest = [b for b in landing.blocks(max(settled, landing.head() - LOOK_BACK)) if b.batch.startswith(OURS)][-1:]
    for block in newest:
        columns = landing.relation.columns
        rows = (
            f"SELECT {', '.join(map(quote, columns))} FROM {landing.table.sql()} WHERE _block_number = {block.number}"
        )
        insert = ddl.insert_block(landing.table.sql(), columns, block.batch, rows)
        insert_to_all(workspace, insert, Block(landing.relation.name, block.batch))
