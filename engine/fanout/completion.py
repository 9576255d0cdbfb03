"""Completing the insert that a killed process was in the middle of.

Its rows may be in landing and not in all the views that hang on it. The batch is inserted from landing once more
under its own token: landing and every view that has it know it again, the others take it. One batch at a time lands
per datasource, so only the newest can be in doubt; and none that landed before a view was made, which got it as
history.
"""

from __future__ import annotations

import structlog

from engine.compiler.storage import BATCH
from engine.errors import RookeryError
from engine.fanout.lane import OURS
from engine.plan.state import Workspace
from engine.schema import Name, literal, quote
from engine.warehouse.port import STRICT

log = structlog.get_logger("rookery.fanout")

LOOK_BACK = 1000
"""Blocks among which the newest batch of ours is looked for; what others insert may lie behind it."""


def complete(workspace: Workspace) -> None:
    """Complete the newest batch of every landing datasource that views hang on."""
    settled = {name: int(body["block"]) for name, body in workspace.registry.read("settled").items()}
    for name, relation in workspace.current.build.relations.items():
        if relation.kind != "landing":
            continue
        try:
            _complete(workspace, Name(workspace.name, name), relation.columns, settled.get(name, 0))
        except RookeryError as exc:
            log.error("the last batch could not be completed", datasource=name, error=exc.detail or exc.message)


def _complete(workspace: Workspace, table: Name, columns: tuple[str, ...], settled: int) -> None:
    watched = workspace.warehouse.query(
        "SELECT length(dependencies_table) FROM system.tables WHERE database = {d:String} AND name = {t:String}",
        {"d": table.database, "t": table.name},
    ).rows
    if not watched or not watched[0][0]:
        return
    head = workspace.warehouse.query(
        "SELECT max(max_block_number) FROM system.parts "
        "WHERE active AND database = {d:String} AND table = {t:String}",
        {"d": table.database, "t": table.name},
    ).rows[0][0]
    newest = workspace.warehouse.query(
        f"SELECT max(_block_number), argMax({BATCH}, _block_number) FROM {table.sql()} "
        f"WHERE _block_number > {max(settled, int(head) - LOOK_BACK)} AND startsWith({BATCH}, {literal(OURS)})"
    ).rows
    if not newest or not newest[0][0]:
        return
    block, batch = newest[0]
    names = ", ".join(quote(c) for c in columns)
    given = {**STRICT, "insert_deduplication_token": literal(str(batch))}
    settings = ", ".join(f"{k} = {v}" for k, v in given.items())
    with workspace.fence.shared():
        workspace.warehouse.execute(
            f"INSERT INTO {table.sql()} ({names}) SETTINGS {settings} "
            f"SELECT {names} FROM {table.sql()} WHERE _block_number = {int(block)}"
        )
