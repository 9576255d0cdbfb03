"""The time zone of a workspace, in which its rows are written and read regardless of the host's zone."""

from __future__ import annotations

from engine import errors
from engine.settings import canonical_zone
from engine.warehouse.errors import EngineError

UTC = "UTC"


def named_zone(name: str) -> str:
    """Convert the engine's name of a zone to our canonical name. Raises SETTING if the zone has no IANA name."""
    try:
        return canonical_zone(name)
    except ValueError as exc:
        raise EngineError(
            errors.SETTING,
            f"the time zone of the stored rows is unknown: this host's zone `{name}` has no standard name",
            hint="set ROOKERY_TIMEZONE to the zone of the host that wrote the rows",
            detail=str(exc),
        ) from exc


def require_zone(stored: str, configured: str | None, subject: str) -> None:
    """Raise ZONE if the settings name another zone than that of the stored data, which `subject` names."""
    if configured is not None and configured != stored:
        raise EngineError(
            errors.ZONE,
            f"the time zone of {subject} is {stored}, but ROOKERY_TIMEZONE is {configured}",
            hint=f"set ROOKERY_TIMEZONE={stored} or unset it: the zone cannot change after the first row",
        )
