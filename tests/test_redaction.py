"""Log lines contain no tokens, wherever in a text they are."""

from __future__ import annotations

import pytest

from engine.observe.redaction import redact


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a p.eyJ1IjoibWFpbiJ9.abc-DEF_12 b", "a [token] b"),
        ("Bearer eyJhbGciOiJIUzI1NiJ9.eyJleHAiOjF9.c2lnbmF0dXJl", "Bearer [token]"),
        ("x-eyJhbGciOiJIUzI1NiJ9.eyJleHAiOjF9.c2ln", "x-[token]"),
        ("/v0/pipes/a.json?token=abc&x=1", "/v0/pipes/a.json?[token]&x=1"),
        ("they.example.com has key.json and 1.5", "they.example.com has key.json and 1.5"),
        ("a.token=abc b", "a.[token] b"),
        ("main.events failed", "main.events failed"),
        ("in db.p.eyJ1IjoibWFpbiJ9.sig", "in db.[token]"),
    ],
)
@pytest.mark.guard
def test_tokens_are_redacted(text: str, shown: str) -> None:
    assert redact(text) == shown
