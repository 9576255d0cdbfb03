"""`--skip-backfill`: a pipe's query changes, and its target keeps the rows that the earlier query delivered."""

from __future__ import annotations

from collections.abc import Iterator

from engine.compiler.build import Build
from engine.compiler.views import workspace_schema
from engine.errors import (
    KEEPS_NOTHING,
    UNKNOWN_RESOURCE,
    RookeryError,
    did_you_mean,
)
from engine.plan.steps import DropTable, Plan
from engine.workspace.snapshot import Snapshot


def pipes_that_continue(snapshot: Snapshot, build: Build, names: frozenset[str]) -> frozenset[str]:
    """The named pipes whose queries differ from the deployed ones.

    Raises RK3007 if a name is not that of a materialized pipe, and RK3035 for a pipe that has not filled its target
    before.
    """
    for name in sorted(names):
        pipe, deployed = build.pipes.get(name), snapshot.build.pipes.get(name)
        if pipe is None or pipe.target is None:
            message = f"no materialized pipe is named `{name[:120]}`, so there is no target to keep"
            hint = did_you_mean(
                name,
                (p.name for p in build.materialized()),
                "--skip-backfill takes the name of a materialized pipe",
            )
            raise RookeryError(UNKNOWN_RESOURCE, message, hint=hint)
        if deployed is None or deployed.target is None or deployed.target.name != pipe.target.name:
            raise RookeryError(
                KEEPS_NOTHING,
                f"pipe `{name}` has not filled `{pipe.target.name}` before, so there are no rows to keep",
                hint="push it without --skip-backfill: its history is delivered",
            )
    if not names:
        return frozenset()
    # An unchanged query continues without the option, which would have no effect.
    before, after = _query_fingerprints(snapshot.build), _query_fingerprints(build)
    return frozenset(n for n in names if before.get(n) != after.get(n))


def _query_fingerprints(build: Build) -> dict[str, set[str]]:
    """Fingerprints of the views of each pipe, without the part that encodes the list of their columns."""
    fingerprints: dict[str, set[str]] = {}
    for view in workspace_schema(build).views.values():
        if view.mark is not None:
            fingerprints.setdefault(view.mark.resource, set()).add(view.mark.fingerprint.partition(":")[0])
    return fingerprints


def check_targets_are_kept(plan: Plan, build: Build, continued: frozenset[str]) -> None:
    """Raise RK3035 if the plan drops the target of a pipe whose target should be kept."""
    for step in plan.steps:
        if not isinstance(step, DropTable):
            continue
        # The table would be dropped for a reason other than the query, for example a new type of a column.
        for name in sorted(continued):
            target = build.pipes[name].target
            if target is not None and step.name.name == target.name:
                raise RookeryError(
                    KEEPS_NOTHING,
                    f"the rows of `{step.name}` cannot be kept for the new query of `{name}`: {step.reason}",
                    hint=(
                        "fill a new target with it, or push without "
                        "--skip-backfill; the plan shows what would be lost"
                    ),
                )


def warn_of_unchanged(names: frozenset[str]) -> Iterator[RookeryError]:
    """One warning (RK3035) for each pipe that was named although its query has not changed."""
    for name in sorted(names):
        message = f"the query of `{name}` has not changed, so --skip-backfill has no effect on it"
        yield RookeryError(KEEPS_NOTHING, message)
