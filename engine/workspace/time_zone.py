"""The time zone of a workspace: recorded in its registry on first use, and checked whenever it is opened."""

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
    """The zone of a new workspace. Raises ZONE if a ClickHouse server does not run in the configured zone."""
    zone = settings.timezone or UTC
    if warehouse.zone != zone and not warehouse.capabilities.embedded:
        raise RookeryError(
            ZONE,
            f"a new workspace uses the time zone {zone}, but the ClickHouse server runs in {warehouse.zone}",
            hint=f"set ROOKERY_TIMEZONE={warehouse.zone}, or <timezone>{zone}</timezone> in the server's settings",
        )
    return warehouse.zone


def zone_rows(zone: str, *, assumed: bool = False) -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
    """The registry record of a zone, by kind and name. An `assumed` zone is that of the host; it can be corrected."""
    return {ZONE_KIND: {ZONE_NAME: {"zone": zone, **({"assumed": True} if assumed else {})}}}


def is_zone_assumed(registry: Registry) -> bool:
    """Whether the zone of the rows of an older program was taken from the host that first opened them."""
    return bool(registry.read(ZONE_KIND).get(ZONE_NAME, {}).get("assumed"))


def check_zone(registry: Registry, warehouse: Warehouse, settings: Settings) -> None:
    """Raise ZONE if the database does not run in the zone in which the workspace's rows were written.

    A zone that was assumed is replaced by the one that the settings name.
    """
    workspace = settings.workspace
    if settings.timezone == warehouse.zone and is_zone_assumed(registry):
        registry.write_all(zone_rows(warehouse.zone))
    recorded = registry.read(ZONE_KIND).get(ZONE_NAME, {}).get("zone", warehouse.zone)
    if recorded == warehouse.zone:
        return
    embedded = warehouse.capabilities.embedded
    raise RookeryError(
        ZONE,
        f"workspace `{workspace}` uses the time zone {recorded}, but its database was opened in {warehouse.zone}",
        hint=f"set ROOKERY_TIMEZONE={recorded}"
        if embedded
        else f"set <timezone>{recorded}</timezone> in the configuration of the ClickHouse server",
    )
