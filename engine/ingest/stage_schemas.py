"""How the rows of each datasource are staged, and which keys its columns read. Compiled once per snapshot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from engine.errors import (
    NOT_WRITABLE,
    UNKNOWN_DATASOURCE,
    RookeryError,
    did_you_mean,
)
from engine.ingest.formats.file_columns import SourceType
from engine.ingest.unknown_keys import KnownKeys
from engine.ingest.values.staging import NO_SOURCE_TYPES, StageSchema, stage_of
from engine.ingest.values.staging_mode import DEFAULT_MODE, ModeSearch, StagingMode
from engine.warehouse.port import Input
from engine.workspace.snapshot import Snapshot, per_snapshot


def schema_for(
    snapshot: Snapshot,
    datasource: str,
    format: Input,
    mode: StagingMode = DEFAULT_MODE,
    source_types: Mapping[str, SourceType] = NO_SOURCE_TYPES,
) -> StageSchema:
    """How a datasource's rows are staged. Raises RK5005, and RK5006 where rows come from a pipe."""
    if not source_types:
        return _text_schema(snapshot, datasource, format, mode)
    # The types in a file are rarely repeated, so their schemas are not cached.
    return _compile(snapshot, datasource, format, mode, source_types)


@per_snapshot
def known_keys(snapshot: Snapshot, datasource: str) -> KnownKeys:
    """The keys that a datasource's columns read."""
    return KnownKeys(snapshot.build.datasources[datasource])


def strict_keys(snapshot: Snapshot, datasource: str) -> KnownKeys | None:
    """The only keys that a strict datasource accepts; None for other datasources."""
    return known_keys(snapshot, datasource) if snapshot.build.datasources[datasource].strict else None


@per_snapshot
def mode_search(snapshot: Snapshot, datasource: str, format: Input) -> ModeSearch:
    """Determines how bodies of a format must be staged."""
    return ModeSearch(snapshot.build.datasources[datasource], format)


@per_snapshot
def _text_schema(snapshot: Snapshot, datasource: str, format: Input, mode: StagingMode) -> StageSchema:
    """The schema for rows that arrive as text, whose columns have no types of their own."""
    return _compile(snapshot, datasource, format, mode, NO_SOURCE_TYPES)


def _compile(
    snapshot: Snapshot, datasource: str, format: Input, mode: StagingMode, source_types: Mapping[str, SourceType]
) -> StageSchema:
    """Compile the schema. Raises RK5005 and RK5006."""
    if datasource not in snapshot.build.relations:
        hint = did_you_mean(datasource, snapshot.build.relations, "rookery datasource ls")
        raise RookeryError(UNKNOWN_DATASOURCE, f"unknown datasource `{datasource}`", hint=hint)
    pipe = next((p.name for p in snapshot.build.materialized() if p.target and p.target.name == datasource), None)
    if pipe is not None:
        raise RookeryError(
            NOT_WRITABLE, f"`{datasource}` is the target of pipe `{pipe}`: rows cannot be appended to it"
        )
    schema = stage_of(snapshot.build.datasources[datasource], format, snapshot.zone, mode, source_types)
    return replace(schema, expiry=snapshot.build.expiry_checks.get(datasource))
