"""Times that a test file writes relative to the start of the run: `$now-2h`, `$today`, `$month`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from engine.project.source import YamlList, YamlMapping, YamlText

_RELATIVE = re.compile(r"\$(now|today|month)(?:([+-][0-9]{1,6})([smhdw]))?", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


@dataclass(frozen=True, slots=True)
class Clock:
    """The time at which a run started, in the zone of its workspaces."""

    started: datetime

    def resolved(self, value: Any) -> Any:
        """A value of a test file with times instead of relative times. Only plain text is one."""
        if isinstance(value, YamlMapping):
            return value.like({key: self.resolved(item) for key, item in value.items()})
        if isinstance(value, YamlList):
            items = YamlList(map(self.resolved, value))
            items.source, items.location = value.source, value.location
            return items
        match = _RELATIVE.fullmatch(value) if isinstance(value, YamlText) and not value.style else None
        if match is None:
            return value
        return YamlText.at(self._text(match[1], match[2], match[3]), value.source, value.location)

    def _text(self, base: str, number: str | None, unit: str | None) -> str:
        offset = timedelta(seconds=int(number) * _SECONDS[unit]) if number and unit else timedelta()
        moment = _BASES[base](self.started) + offset
        # Days and months stay days, unless the offset is shorter than a day.
        is_day = base != "now" and moment.time() == moment.min.time()
        return f"{moment:%Y-%m-%d}" if is_day else f"{moment:%Y-%m-%d %H:%M:%S}"


_BASES: dict[str, Callable[[datetime], datetime]] = {
    "now": lambda moment: moment,
    "today": lambda moment: moment.replace(hour=0, minute=0, second=0),
    "month": lambda moment: moment.replace(day=1, hour=0, minute=0, second=0),
}
