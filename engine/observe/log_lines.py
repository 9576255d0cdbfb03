"""Log lines as text and as JSON. A line never contains a control character, whatever is logged.

An event is a dict with `timestamp`, `level`, `event` and further fields.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

LEVELS = ("debug", "info", "warning", "error")
MAX_VALUE_CHARACTERS = 1000
"""Maximum length of a value. The engine's messages can be several thousand characters long."""
MAX_STACK_CHARACTERS = 16_000
"""Maximum length of a stack trace."""
EVENT_CHARACTERS = 30
"""Width of the column with the event."""
_STACK = "exception"
_HEAD = ("timestamp", "level", "event", _STACK)


def shortened(event: Mapping[str, Any]) -> dict[str, Any]:
    """An event whose values have a limited length."""
    return {name: _short(name, value) for name, value in event.items()}


def _short(name: str, value: Any) -> Any:
    limit = MAX_STACK_CHARACTERS if name == _STACK else MAX_VALUE_CHARACTERS
    if isinstance(value, (int, float, bool)) or value is None:
        return value
    text = value if isinstance(value, str) else str(value)
    # After this, the engine lists every token that could have followed.
    text = text.partition(". Expected one of: ")[0] if name != _STACK else text
    return text if len(text) <= limit else text[:limit] + "…"


def as_json(event: Mapping[str, Any]) -> str:
    """One line of JSON, in ASCII if a value contains characters that cannot be printed."""
    ordered = {name: event[name] for name in _HEAD if name in event} | dict(event)
    text = json.dumps(ordered, ensure_ascii=False, default=str)
    return text if text.isprintable() else json.dumps(ordered, default=str).replace("\x7f", "\\u007f")


def as_text(event: Mapping[str, Any]) -> str:
    """One line for people; a stack trace follows on further lines."""
    name = printable(str(event.get("event", ""))).ljust(EVENT_CHARACTERS)
    fields = " ".join(f"{printable(str(k))}={_value(v)}" for k, v in event.items() if k not in _HEAD)
    line = f"{event.get('timestamp', '')} [{event.get('level', ''):<9}] {name} {fields}".rstrip()
    stack = str(event.get(_STACK) or "")
    return "\n".join([line, *(printable(part) for part in stack.splitlines())])


def printable(text: str) -> str:
    """Text with escapes in place of characters that cannot be printed, such as those that a terminal would obey."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _value(value: Any) -> str:
    """A value in a line of text; in quotation marks if it could be confused with the rest of the line."""
    text = value if isinstance(value, str) else str(value)
    plain = text and text.isprintable() and not any(c in text for c in " =\"'\\")
    return text if plain else repr(text)
