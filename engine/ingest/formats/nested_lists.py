"""Finds lists that are nested too deeply for the engine. Imports only the standard library, for `parquet_process`."""

from __future__ import annotations

MAX_LIST_DEPTH = 16
"""Maximum number of lists directly inside one another: to find their type, the engine needs time that grows with the
cube of this number, so one row of a few kilobytes could stop a datasource for minutes. Real data needs four, for
shapes.
"""
_BETWEEN_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_LIST, _LIST_END, _OBJECT = b"[]{"


def has_deep_lists(text: bytes) -> bool:
    """Return whether more than MAX_LIST_DEPTH lists are directly inside one another, without an object between."""
    if text.count(b"[") <= MAX_LIST_DEPTH:
        return False
    quoted = text.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in text else text
    outside_strings = b"".join(quoted.split(b'"')[::2])
    depth, outside = 0, list[int]()
    for bracket in outside_strings.translate(None, _BETWEEN_BRACKETS):
        if bracket == _LIST:
            depth += 1
            if depth > MAX_LIST_DEPTH:
                return True
        elif bracket == _LIST_END:
            depth = max(depth - 1, 0)
        elif bracket == _OBJECT:
            outside.append(depth)
            depth = 0
        else:
            depth = outside.pop() if outside else 0
    return False
