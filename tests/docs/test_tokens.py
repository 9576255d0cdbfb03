"""`docs/tokens.md` has exactly the claims, scopes and filter functions that exist."""

from __future__ import annotations

import re

from engine.compiler import filters
from engine.tokens import claims, jwts
from engine.web import access
from tests.docs.reading import ROOT, rows

TEXT = (ROOT / "docs" / "tokens.md").read_text(encoding="utf-8")


def test_claims() -> None:
    documented = {name.strip("`"): need for name, need, _ in rows(TEXT, "JWT")}
    assert set(documented) == jwts._CLAIMS
    assert {n for n, need in documented.items() if need} == {"workspace_id", "name", "exp", "scopes"}


def test_scopes() -> None:
    assert [scope.strip("`") for scope, _ in rows(TEXT, "Scopes")] == list(claims.SCOPE_TYPES)


def _cell(scopes: frozenset[str]) -> str:
    """How the table lists the scopes that allow a route."""
    if scopes is access.PUBLIC:
        return "no token needed"
    narrow = [f"`{s}`" for s in claims.SCOPE_TYPES if s in scopes and s != "ADMIN"]
    return ", ".join(narrow) or "`ADMIN`"


def test_routes_by_scope() -> None:
    documented = {
        (path.strip("`"), method): scopes
        for path, methods, scopes in rows(TEXT, "Routes by scope")
        for method in methods.split(", ")
    }
    assert documented == {
        (path, method): _cell(scopes) for path, methods in access.ACCESS.items() for method, scopes in methods.items()
    }


def test_scopes_of_jwts() -> None:
    sentence = TEXT.partition("A JWT can have ")[2].partition(".")[0]
    assert set(re.findall(r"`([A-Z:]+)`", sentence)) == claims.JWT_SCOPES


def test_functions_of_filters() -> None:
    section = TEXT.partition("these functions and their operators")[2].partition("It is at most")[0]
    assert set(re.findall(r"`(\w+)`", section)) == filters.FILTER_FUNCTIONS
    assert f"{filters.MAX_FILTER_BYTES:,} characters" in TEXT
