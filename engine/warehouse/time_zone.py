"""The one time zone of a workspace, in which its rows are written and read whatever the host's is."""

from __future__ import annotations

from engine import errors
from engine.settings import canonical_zone
from engine.warehouse.errors import EngineError

UTC = "UTC"


def named_zone(name: str) -> str:
    """A zone that the engine names, as we name it. Raises SETTING for one that has no name."""
    try:
        return canonical_zone(name)
    except ValueError as exc:
        raise EngineError(
            errors.SETTING,
            f"the time zone of the stored rows has to be named: this host calls its own `{name}`",
            hint="set ROOKERY_TIMEZONE to the zone of the host on which they were written",
            detail=str(exc),
        ) from exc


def require_zone(stored: str, wanted: str | None, what: str) -> None:
    """Raises ZONE when the settings name another zone than the stored one."""
    if wanted is not None and wanted != stored:
        raise EngineError(
            errors.ZONE,
            f"{what} is kept in the time zone {stored}, and ROOKERY_TIMEZONE is {wanted}",
            hint=f"set ROOKERY_TIMEZONE={stored}, or leave it unset: a zone is chosen once, before the first row",
        )
