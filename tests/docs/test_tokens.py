"""`docs/tokens.md` has exactly the claims, scopes and filter functions that exist."""

from __future__ import annotations

import re

from engine import tokens
from engine.compiler import filters
from tests.docs.reading import ROOT, rows

TEXT = (ROOT / "docs" / "tokens.md").read_text(encoding="utf-8")


def test_claims() -> None:
    documented = {name.strip("`"): need for name, need, _ in rows(TEXT, "JWT")}
    assert set(documented) == tokens._CLAIMS
    assert {n for n, need in documented.items() if need} == {"workspace_id", "name", "exp", "scopes"}


def test_scopes() -> None:
    assert [scope.strip("`") for scope, _ in rows(TEXT, "Scopes")] == list(tokens.SCOPE_TYPES)


def test_functions_of_filters() -> None:
    section = TEXT.partition("these functions and their operators")[2].partition("It is at most")[0]
    assert set(re.findall(r"`(\w+)`", section)) == filters.FILTER_FUNCTIONS
    assert f"{filters.MAX_FILTER_BYTES:,} characters" in TEXT
