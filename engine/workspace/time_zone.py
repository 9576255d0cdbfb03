"""The workspace's time zone: pinned in its registry at first use, compared with the database's at every opening."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.errors import ZONE, RookeryError
from engine.settings import Settings
from engine.warehouse.port import Warehouse
from engine.warehouse.registry import Registry
from engine.warehouse.time_zone import UTC

ZONE_KIND, ZONE_NAME = "timezone", "workspace"


def first_zone(warehouse: Warehouse, settings: Settings) -> str:
    """The zone of a new workspace. Raises ZONE where a ClickHouse server runs in one that nobody chose."""
    wanted = settings.timezone or UTC
    if warehouse.zone != wanted and not warehouse.capabilities.embedded:
        raise RookeryError(
            ZONE,
            f"a new workspace is kept in {wanted}, and the ClickHouse server runs in {warehouse.zone}",
            hint=f"set ROOKERY_TIMEZONE={warehouse.zone}, or <timezone>{wanted}</timezone> in the server's settings",
        )
    return warehouse.zone


def zone_rows(zone: str) -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
    """What the registry holds of a zone."""
    return {ZONE_KIND: {ZONE_NAME: {"zone": zone}}}


def check_zone(registry: Registry, warehouse: Warehouse, workspace: str) -> None:
    """Raises ZONE when the database does not run in the zone in which the workspace's rows were written."""
    pinned = registry.read(ZONE_KIND).get(ZONE_NAME, {}).get("zone", warehouse.zone)
    if pinned == warehouse.zone:
        return
    embedded = warehouse.capabilities.embedded
    raise RookeryError(
        ZONE,
        f"workspace `{workspace}` is kept in the time zone {pinned}, and its database was opened in {warehouse.zone}",
        hint=f"set ROOKERY_TIMEZONE={pinned}"
        if embedded
        else f"set <timezone>{pinned}</timezone> in the configuration of the ClickHouse server",
    )
