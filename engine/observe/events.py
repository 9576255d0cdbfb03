"""Events: log lines about changes to the workspace. Inside a request they also have its id and its token's name."""

from __future__ import annotations

from typing import Any

import structlog

MAX_LISTED = 10
"""Names of a list that are logged; then `+` and the number of others."""
_log = structlog.get_logger("rookery.events")


def note(what: str, **details: Any) -> None:
    """Log an event at level info. Details with the value None, and empty lists, are left out."""
    shown = {name: _listed(value) for name, value in details.items()}
    _log.info(what, **{name: value for name, value in shown.items() if value not in (None, "")})


def _listed(value: Any) -> Any:
    if not isinstance(value, (list, tuple, set, frozenset)):
        return value
    names = [str(name) for name in value]
    more = [f"+{len(names) - MAX_LISTED}"] if len(names) > MAX_LISTED else []
    return ",".join(names[:MAX_LISTED] + more)
