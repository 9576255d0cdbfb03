"""What should exist, out of the build and the tenants."""

from __future__ import annotations

from engine.compiler.build import Build
from engine.compiler.views import nest_schema, workspace_schema
from engine.plan.diff import with_feeders
from engine.schema import Schema
from engine.workspace.snapshot import Snapshot


def desired_schema(build: Build, snapshot: Snapshot) -> Schema:
    """Everything that should exist: the workspace's own objects and every nest, in order of data flow."""
    schema = workspace_schema(build)
    for tenant in snapshot.tenants.values():
        if tenant.placement == "tables" and tenant.state != "removing":
            schema = schema.merged(nest_schema(build, tenant.id, snapshot.routed))
    return with_feeders(schema)
