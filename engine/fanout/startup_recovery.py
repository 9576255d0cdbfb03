"""Completes the batches that a killed process was storing, before anything else is stored."""

from __future__ import annotations

from engine.fanout.merge_watch import watch_merges
from engine.fanout.uncertain_batches import uncertain_batches_of
from engine.workspace.workspace import Workspace


def complete(workspace: Workspace) -> None:
    """Complete the newest batch of every landing datasource, and all recorded uncertain batches.

    A kill may leave rows of a batch in landing but not in all views on it. The batches of a datasource are stored one
    at a time, and none before the uncertain ones are complete. So only the newest batch can be uncertain without a
    record.
    """
    uncertain_batches_of(workspace).recover()
    watch_merges(workspace)
