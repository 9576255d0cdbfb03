"""The row filters of a token: parsed, checked by the engine, and split into tenants and conditions on rows."""

from __future__ import annotations

from dataclasses import dataclass, field

from engine.cache import LruCache, size_of
from engine.compiler.filters import ParsedFilter, parse_filter
from engine.compiler.scope import TABLE_ALIAS, RowFilter
from engine.errors import BAD_FILTER, RookeryError
from engine.schema import Name
from engine.tokens.claims import Claims
from engine.workspace.snapshot import Snapshot, per_snapshot
from engine.workspace.workspace import Workspace

FILTER_CACHE_ENTRIES = 10_000
"""Maximum number of row filters of tokens that a snapshot caches."""


@dataclass(frozen=True, slots=True)
class TokenFilters:
    """The filters of a token on datasources."""

    rows: dict[str, tuple[RowFilter, ...]] = field(default_factory=dict)
    """Conditions on rows by datasource. All of them apply, whatever the query reads."""
    tenants: frozenset[str] = frozenset()
    """Tenants that filters select by comparing the tenant column."""


def token_filters(snapshot: Snapshot, workspace: Workspace, claims: Claims) -> TokenFilters:
    """The token's filters on datasources, each checked by the engine. Raises RK4015 for one that it refuses."""
    rows: dict[str, tuple[RowFilter, ...]] = {}
    tenants: set[str] = set()
    for name in sorted({s.resource for s in claims.scopes if s.filter} & set(snapshot.build.relations)):
        for text in claims.filters(name):
            parsed = _parsed_filter(snapshot, workspace, name, text)
            if parsed.tenant is not None:
                tenants.add(parsed.tenant)
            if parsed.condition is not None:
                rows[name] = (*rows.get(name, ()), RowFilter(parsed.condition))
    return TokenFilters(rows, frozenset(tenants))


def _parsed_filter(snapshot: Snapshot, workspace: Workspace, datasource: str, text: str) -> ParsedFilter:
    """A filter whose condition the engine accepts. Cached by the filter's text."""
    cache = _parsed_filters(snapshot)
    known = cache.get((datasource, text))
    if known is not None:
        return known
    parsed = parse_filter(text, snapshot.build.relations[datasource], workspace.warehouse)
    if parsed.condition is not None:
        # Only the engine knows whether the condition fits the types of the columns. DESCRIBE reads no rows.
        table = Name(snapshot.build.workspace, datasource).sql()
        try:
            workspace.warehouse.query(
                f"DESCRIBE TABLE (SELECT 1 FROM {table} AS {TABLE_ALIAS} WHERE {parsed.condition})"
            )
        except RookeryError as exc:
            raise RookeryError(
                BAD_FILTER, "the token's filter does not fit its datasource", detail=exc.detail or exc.message
            ) from exc
    return cache.put((datasource, text), parsed)


@per_snapshot
def _parsed_filters(snapshot: Snapshot) -> LruCache[tuple[str, str], ParsedFilter]:
    """Results of `_parsed_filter`, by datasource and text."""
    return LruCache(FILTER_CACHE_ENTRIES, weigh=size_of)
