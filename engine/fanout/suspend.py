"""Views that fail and would keep every insert from everybody: found, taken down, and told.

What a taken view has missed is in landing. A push, or `rookery fanout repair`, computes its target again and puts the
view back.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import structlog

from engine.errors import RookeryError
from engine.plan.state import Workspace
from engine.schema import Name
from engine.warehouse import ddl
from engine.warehouse.catalog import read_schema

log = structlog.get_logger("rookery.fanout")

KIND = "suspended"
_PART = r"`?([^`\s:]+?)`?"
_PUSHING = re.compile(rf"while pushing to view {_PART}\.{_PART}(?=[:.\s(]|$)")
_TARGET = re.compile(r"Target table '`?([^'`]+?)`?\.`?([^'`]+?)`?' of view")


def failed_behind(exc: RookeryError) -> bool:
    """Whether an insert failed in a view, and not for its own rows."""
    text = exc.detail or exc.message
    return "while pushing to view" in text or _TARGET.search(text) is not None


def suspend_culprit(workspace: Workspace, exc: RookeryError) -> Name | None:
    """Take down the view that made an insert fail; None when it cannot be told, or is not ours."""
    view = _culprit(workspace, exc.detail or exc.message)
    if view is None:
        return None
    with workspace.fence.exclusive():
        workspace.warehouse.execute(ddl.drop_view(view))
    log.error("a view failed and was taken down; push to repair it", view=str(view), error=exc.detail or exc.message)
    moment = datetime.now(UTC).isoformat(timespec="seconds")
    workspace.registry.write(KIND, {str(view): {"error": (exc.detail or exc.message)[:1000], "since": moment}})
    return view


def _culprit(workspace: Workspace, text: str) -> Name | None:
    live = read_schema(workspace.warehouse, workspace.name)
    pushing = _PUSHING.search(text)
    if pushing is not None:
        view = live.views.get(Name(pushing[1], pushing[2]))
        return view.name if view is not None and view.mark is not None else None
    target = _TARGET.search(text)
    if target is not None:
        name = Name(target[1], target[2])
        return next((v.name for v in live.views.values() if v.target == name), None)
    return None


def suspended(workspace: Workspace) -> list[dict[str, Any]]:
    """Views that are down, with the error that took them there."""
    return [{"view": name, **body} for name, body in sorted(workspace.registry.read(KIND).items())]


def note_repaired(workspace: Workspace) -> None:
    """Forget views that stand again, or that nothing wants any more."""
    names = workspace.registry.read(KIND)
    if names:
        live = {str(v) for v in read_schema(workspace.warehouse, workspace.name).views}
        workspace.registry.remove(KIND, [n for n in names if n in live])
