"""Finds the tenants on whose rows a view fails, and whether it still fails.

To find out, the view's query runs over blocks of its source, and its result is discarded. A view that tenants share
need not be suspended if only a few tenants' rows make it fail: it can run without these tenants.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from engine.compiler.storage import BATCH_COLUMN
from engine.compiler.views import in_block_range
from engine.errors import ENGINE, ENGINE_INTERNAL, TIMEOUT, RookeryError
from engine.fanout.handover import BatchBlocks
from engine.fanout.shared_views import ViewFactory, shared_view
from engine.plan.backfill import Range, block_ranges
from engine.schema import Name, Table, View, literal, quote
from engine.warehouse.errors import is_transient
from engine.warehouse.port import MAX_PARTITIONS
from engine.workspace.workspace import Workspace

MAX_EXCLUDED_TENANTS = 16
"""Maximum number of tenants that one view may exclude. If it fails for more, its query is the cause and not their
rows.
"""
MAX_HALVINGS = 4
"""How often the limits are halved in the search for the tenants that take most of the memory or partitions."""
EARLIER_BLOCKS = 16
"""Number of blocks before a batch on which a view is tried if it fails for all tenants of the batch."""
TENANTS_PER_STATEMENT = 1000
"""Maximum number of tenants in the condition of one statement."""
REPEATABLE = (ENGINE_INTERNAL, TIMEOUT)
"""Errors that the same rows may cause every time, although other causes are possible."""


def find_failure_on_history(workspace: Workspace, view: View, target: Table | None = None) -> RookeryError | None:
    """The error of a view's query over the rows of its source, range by range, as a backfill reads them; None if it
    succeeds. `target` is the table that the view will fill, if it differs from the live one.
    """
    ranges = block_ranges(workspace.warehouse, view.log or view.source)
    failures = (find_failure(workspace, view, blocks, Limits(), target) for blocks in ranges)
    return next((exc for exc in failures if exc is not None), None)


class Limits(NamedTuple):
    """What a query may take."""

    memory: int | None = None
    """In bytes; None for the default of statements."""
    partitions: int = MAX_PARTITIONS
    """Partitions of the target that its rows may belong to."""

    def halved(self, times: int) -> Limits:
        return Limits(self.memory and self.memory >> times, self.partitions >> times)


def find_failure(
    workspace: Workspace, view: View, blocks: Range, limits: Limits, target: Table | None = None
) -> RookeryError | None:
    """The error of a view's query over its source's blocks (after, upto]; None if it succeeds.

    Raises errors that are unrelated to the rows. `target` is described at `find_failure_on_history`.
    """
    if target is not None:
        types, partition_key = {c.name: c.type for c in target.columns}, target.partition_key
    else:
        types, partition_key = _live_target(workspace, view)
    types = {n: t for n, t in types.items() if n in view.columns}
    structure = ", ".join(f"{quote(n)} {t}" for n, t in types.items())
    names = ", ".join(map(quote, view.columns))
    rows = in_block_range(view.backfill, *blocks)
    settings = {"max_memory_usage": limits.memory} if limits.memory is not None else {}
    # The table function does not store anything, but it converts the rows to the types of the target, which may also
    # fail.
    try:
        workspace.warehouse.execute(
            f"INSERT INTO FUNCTION null({literal(structure)}) ({names}) {rows}", None, settings
        )
        if partition_key:
            values = ", ".join(f"CAST({quote(n)} AS {t}) AS {quote(n)}" for n, t in types.items())
            counted = f"SELECT uniqExact({partition_key}) FROM (SELECT {values} FROM ({rows}))"
            ((count,),) = workspace.warehouse.query(counted, None, settings).rows
            if count > limits.partitions:
                reason = f"the rows belong to {count} partitions, and the maximum is {limits.partitions}"
                return RookeryError(ENGINE, reason)
    except RookeryError as exc:
        if is_transient(exc) and exc.code not in REPEATABLE:
            raise
        return exc
    return None


def without_failing_tenants(
    workspace: Workspace, view: View, block: BatchBlocks, *, of_size: bool = False
) -> View | None:
    """A live view in the form that excludes the tenants on whose rows in a block it fails.

    With `of_size`, the INSERT exceeded its limit of memory or of partitions. If no tenant's rows do so alone, the
    tenants that take most of it are excluded.

    None if that does not help: the view fails on all tenants' rows, on those of too many tenants, or for another
    reason.
    """
    make = _live_view_factory(workspace, view, block.datasource)
    if make is None or view.mark is None:
        return None
    newest = _newest_block(workspace, block)
    if newest is None:
        return None
    number, present = newest
    excluded = set(view.excluded_tenants)
    candidates = sorted(present - excluded)

    def fails(limits: Limits, tenants: Sequence[str]) -> bool:
        view_of_some = make(tuple(tenants), ())
        return find_failure(workspace, view_of_some, (number - 1, number), limits) is not None

    limits, failing = Limits(workspace.settings.commit_memory()), set[str]()
    for halvings in range(1 + MAX_HALVINGS if of_size else 1):
        failing = failing or _bisect(partial(fails, limits.halved(halvings)), candidates)
    if not failing or len(excluded | failing) > MAX_EXCLUDED_TENANTS:
        return None
    # If all tenants of the batch fail, the cause may be the query and not their rows.
    all_fail = len(failing) == len(candidates) > 1
    if all_fail and not _succeeds_before(workspace, make((), view.excluded_tenants), block, number):
        return None
    return make((), tuple(sorted(excluded | failing)))


def _succeeds_before(workspace: Workspace, view: View, block: BatchBlocks, number: int) -> bool:
    """Whether a view succeeds on the blocks before the one with this number, and these have any rows."""
    after, upto = max(0, number - 1 - EARLIER_BLOCKS), number - 1
    earlier = workspace.warehouse.query(
        f"SELECT 1 FROM {Name(workspace.name, block.datasource).sql()} "
        f"WHERE _block_number > {after} AND _block_number <= {upto} LIMIT 1"
    )
    limits = Limits(workspace.settings.commit_memory())
    return bool(earlier.rows) and find_failure(workspace, view, (after, upto), limits) is None


def _bisect(fails: Callable[[Sequence[str]], bool], tenants: Sequence[str]) -> set[str]:
    """The tenants that fail. Stops as soon as there are more than MAX_EXCLUDED_TENANTS."""
    failing: set[str] = set()
    pending = [
        tenants[start : start + TENANTS_PER_STATEMENT] for start in range(0, len(tenants), TENANTS_PER_STATEMENT)
    ]
    while pending and len(failing) <= MAX_EXCLUDED_TENANTS:
        group = pending.pop()
        if not fails(group):
            continue
        if len(group) == 1:
            failing.update(group)
        else:
            middle = len(group) // 2
            pending += [group[:middle], group[middle:]]
    return failing


def _live_view_factory(workspace: Workspace, view: View, datasource: str) -> ViewFactory | None:
    """Compiles other forms of a live view on landing. None if tenants do not share it, or if its query has changed.

    The forms are marked with the tenants that they exclude, so that the live schema shows what a view leaves out.
    """
    make = shared_view(workspace.current.build, view, Name(workspace.name, datasource))
    if make is None or view.mark is None:
        return None
    mark = make((), ()).mark
    if mark is None or mark.fingerprint != view.mark.fingerprint:
        return None

    def make_marked(only: tuple[str, ...], excluded: tuple[str, ...]) -> View:
        compiled = make(only, excluded)
        assert compiled.mark is not None
        return replace(compiled, mark=replace(compiled.mark, excluded_tenants=excluded))

    return make_marked


def _newest_block(workspace: Workspace, block: BatchBlocks) -> tuple[int, set[str]] | None:
    """The number of a batch's newest block, and the tenants with rows in the batch; None if it is not stored."""
    relation = workspace.current.build.relations[block.datasource]
    result = workspace.warehouse.query(
        f"SELECT max(_block_number), groupUniqArray(toString({quote(relation.tenant or '')})) "
        f"FROM {Name(workspace.name, block.datasource).sql()} WHERE {BATCH_COLUMN} = {{b:String}} HAVING count() > 0",
        {"b": block.batch},
    )
    return (int(result.rows[0][0]), set(result.rows[0][1])) if result.rows else None


def _live_target(workspace: Workspace, view: View) -> tuple[dict[str, str], str]:
    """The types of the columns that a view fills, by name; and the partition key of its target."""
    target, query = {"d": view.target.database, "t": view.target.name}, workspace.warehouse.query
    columns = query(
        "SELECT name, type FROM system.columns WHERE database = {d:String} AND table = {t:String}", target
    )
    keys = query("SELECT partition_key FROM system.tables WHERE database = {d:String} AND name = {t:String}", target)
    return {str(n): str(t) for n, t in columns.rows if n in view.columns}, "".join(str(key) for (key,) in keys.rows)
