"""The keys that sign and verify the workspace's JWTs: showing the newest and rotating them."""

from __future__ import annotations

import time
from typing import Any

from engine.errors import BAD_SCOPE, RookeryError
from engine.observe import events
from engine.tokens.jwts import SigningKey
from engine.workspace.workspace import Workspace

MAX_OVERLAP_SECONDS = 366 * 86_400
"""Maximum time for which JWTs signed with an old key can stay valid."""


def newest(workspace: Workspace) -> dict[str, Any]:
    """The key with which backends sign JWTs, as JSON with its id and the workspace's name."""
    key = workspace.refresh().keys[0]
    return {"kid": key.id, "secret": key.secret, "algorithm": "HS256", "workspace_id": workspace.name}


def rotate(workspace: Workspace, overlap: int) -> dict[str, Any]:
    """Sign with a new key from now on. JWTs of older keys are accepted for another `overlap` seconds."""
    if not 0 <= overlap <= MAX_OVERLAP_SECONDS:
        raise RookeryError(BAD_SCOPE, f"the overlap must be between 0 and {MAX_OVERLAP_SECONDS} seconds")
    with workspace.changes:
        now = int(time.time())
        keys = workspace.refresh().keys
        expired = [k.id for k in keys if k.retires is not None and k.retires <= now]
        # A key that is already retiring keeps its retirement time, so that rotating twice does not extend it.
        retiring = {k.id: {"secret": k.secret, "retires": now + overlap} for k in keys if k.retires is None}
        fresh = SigningKey.new()
        workspace.registry.write("key", {**retiring, fresh.id: {"secret": fresh.secret, "retires": None}})
        workspace.registry.remove("key", expired)
        workspace.refresh()
        events.note("signing key rotated", key=fresh.id, overlap=overlap)
        return newest(workspace)
