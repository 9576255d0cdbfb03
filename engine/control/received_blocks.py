"""Which rows of their sources targets have received through views, without those that suspended views lack."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from engine.compiler.build import Build
from engine.compiler.views import in_block_range
from engine.fanout.shared_views import shared_view
from engine.fanout.suspension_records import SUSPENDED_KIND
from engine.fanout.view_repairs import repairable
from engine.plan.backfill import block_ranges
from engine.schema import Name, Schema, View
from engine.warehouse.catalog import read_schema
from engine.workspace.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Received:
    """Rows that a target has received through one version of a view."""

    view: View
    upto: int | None = None
    """The last block that was delivered; None for all blocks."""
    batches: tuple[str, ...] = ()
    """Batches that were not delivered."""


def received(workspace: Workspace, build: Build, views: Sequence[View]) -> list[Received]:
    """What the target of some of the workspace's views has received.

    A suspended view, or one that excludes some tenants, delivers exactly the rows that it lacks when it is created
    again. If these rows are unknown, its target will be recomputed then, so the view counts as complete.
    """
    live = read_schema(workspace.warehouse, workspace.name, [workspace.name])
    missed = repairable(workspace, build, Schema.of((), (), views), live)
    parts: list[Received] = []
    for view in views:
        if view.name not in missed:
            parts.append(Received(view))
            continue
        current = live.views.get(view.name)
        excluded = current.excluded_tenants if current is not None else ()
        narrowed = shared_view(build, view, view.source) if excluded else None
        if narrowed is not None:
            # What the running form has delivered, for all tenants but the excluded ones.
            parts.append(Received(narrowed((), excluded)))
        parts += [Received(part.view, part.after, part.batches) for part in missed[view.name]]
    return parts


def why_missing_rows_are_unknown(workspace: Workspace, build: Build, views: Sequence[View]) -> str | None:
    """The reason why the rows that one of the views lacks are unknown; None if there is no such view."""
    live = read_schema(workspace.warehouse, workspace.name, [workspace.name])
    missed = repairable(workspace, build, Schema.of((), (), views), live)
    suspended = workspace.registry.read(SUSPENDED_KIND).keys()
    for view in views:
        current = live.views.get(view.name)
        complete = current is not None and not current.excluded_tenants
        if str(view.name) in suspended and not complete and view.name not in missed:
            return f"{view.name} is suspended, and it is not known which rows it lacks (rookery fanout repair)"
    return None


def selects(workspace: Workspace, part: Received, after: int, heads: dict[Name, int]) -> Iterator[str]:
    """SELECTs of a part's rows in the blocks of its source in (after, its head]."""
    source = part.view.source
    head = heads[source] if part.upto is None else min(part.upto, heads[source])
    ranges = [(after, head)]
    if part.batches:
        blocks = block_ranges(workspace.warehouse, source, after=after, without=part.batches)
        # Only the blocks of other batches, because the named batches have not passed through the view.
        ranges = [(first, min(last, head)) for first, last in blocks]
    for first, last in ranges:
        if first < last:
            yield in_block_range(part.view.backfill, first, last)
