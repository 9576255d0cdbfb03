"""Rendering a template for a test: its text and its bindings, or the error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from engine.errors import (
    RookeryError,
)
from engine.template.dry_run import samples
from engine.template.environment import Binder, compile_template

COLUMNS = frozenset({"kind", "ts", "amount", "a`b", "n.x"})


def render(sql: str, request: Mapping[str, object] | None = None, **named: object) -> tuple[str, list[Any]]:
    binder = Binder()
    text = compile_template(sql).render({**(request or {}), **named}, binder, COLUMNS)
    assert list(binder.bindings) == list(binder.types) == [f"p{n}" for n in range(1, len(binder.bindings) + 1)]
    assert all(f"{{{name}:{type}}}" in text for name, type in binder.types.items())
    return text, list(binder.bindings.values())


def refused(sql: str, request: Mapping[str, object] | None = None, **named: object) -> RookeryError:
    with pytest.raises(RookeryError) as caught:
        render(sql, request, **named)
    return caught.value


def texts(sql: str) -> list[str]:
    return [sample.text for sample in samples(compile_template(sql), COLUMNS)]
