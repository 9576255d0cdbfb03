"""Completing what a process that was killed was in the middle of, before anything else lands."""

from __future__ import annotations

from engine.fanout.damaged_merges import watch_merges
from engine.fanout.uncertain_batches import uncertain_batches_of
from engine.workspace.workspace import Workspace


def complete(workspace: Workspace) -> None:
    """Complete the newest batch of every landing datasource, and those that were noted as in doubt.

    Its rows may be in landing and not in all the views that hang on it. One batch at a time lands per datasource, and
    none before what is in doubt is complete, so without a note only the newest can be in doubt.
    """
    uncertain_batches_of(workspace).recover()
    watch_merges(workspace)
