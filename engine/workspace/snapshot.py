"""The snapshot: everything that is deployed in a workspace, as an immutable value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, TypeVar, cast

from engine.cache import LruCache
from engine.compiler.build import Build
from engine.project.model import Project, Resource
from engine.project.parse import parse_source
from engine.schema import nest_database
from engine.tokens import SigningKey, StaticToken

T = TypeVar("T")
Placement = Literal["pooled", "tables"]
SNAPSHOT_KINDS = ("resource", "tenant", "token", "key", "secret", "fanout", "suspended")
"""Kinds of registry records that a snapshot is made of."""


@dataclass(frozen=True, slots=True)
class TenantRecord:
    """A tenant, as recorded in the registry."""

    id: str
    placement: Placement
    state: str
    """`adding`, `ready` or `removing`."""
    created_at: str = ""

    def as_dict(self) -> dict[str, Any]:
        return {"id": self.id, "placement": self.placement, "state": self.state, "created_at": self.created_at}

    def nest(self, workspace: str) -> str | None:
        """The database of the tenant's own tables; None for a pooled tenant."""
        return nest_database(workspace, self.id) if self.placement == "tables" else None


@dataclass(frozen=True, slots=True)
class DeployedFile:
    """A deployed file."""

    text: str
    file: str
    """Its path in the project that it was pushed from."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that a request needs to know about the workspace, at one version of the registry."""

    version: int
    build: Build
    sources: Mapping[str, DeployedFile]
    """Deployed files, by name of the resource."""
    tenants: Mapping[str, TenantRecord]
    """By id."""
    tokens: Mapping[str, StaticToken]
    """By nonce."""
    keys: tuple[SigningKey, ...]
    """The current signing key first, then those that will retire."""
    secret: str
    """The secret of static tokens."""
    modes: Mapping[str, str] = field(default_factory=dict)
    """The fan-out mode of landing datasources: `routed`, or `direct`, which is also the default."""
    suspended: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The records of suspended views, by name of the view."""
    touched: Mapping[str, int] = field(default_factory=dict)
    """The version at which a tenant was added, changed or removed, for changes since the start of this process."""
    cache: LruCache[object, object] = field(default_factory=LruCache)
    """Values that `derived` has computed from this snapshot."""

    @property
    def routed(self) -> frozenset[str]:
        """Landing datasources with a fan-out worker."""
        return frozenset(n for n, m in self.modes.items() if m == "routed")

    def derived(self, key: object, make: Callable[[], T]) -> T:
        """The cached value of a key, or the result of `make`, which is cached. Threads may call `make` twice."""
        value = self.cache.get(key)
        if value is None:
            value = self.cache.put(key, make())
        return cast(T, value)


Compile = Callable[[Project], Build]


def snapshot_of(
    version: int, rows: Mapping[str, Mapping[str, Any]], before: Snapshot | None, compile: Compile
) -> Snapshot:
    """The snapshot of registry records by kind and name. Compiles only if files have changed since `before`."""
    sources = {n: DeployedFile(b["text"], b["file"]) for n, b in rows.get("resource", {}).items()}
    unchanged = before is not None and before.sources == sources
    keys = tuple(SigningKey(i, b["secret"], b["retires"]) for i, b in rows.get("key", {}).items())
    tokens = [StaticToken.of(b) for b in rows.get("token", {}).values()]
    tenants = {i: TenantRecord(**b) for i, b in rows.get("tenant", {}).items()}
    return Snapshot(
        version=version,
        build=before.build if before is not None and unchanged else compile(parse_sources(sources)),
        sources=sources,
        tenants=tenants,
        touched=_touched(version, tenants, before),
        tokens={t.nonce: t for t in tokens},
        keys=tuple(sorted(keys, key=lambda k: (k.retires is not None, k.id))),
        secret=rows["secret"]["static"]["secret"],
        modes={n: str(b["mode"]) for n, b in rows.get("fanout", {}).items()},
        suspended=rows.get("suspended", {}),
    )


def _touched(version: int, tenants: Mapping[str, TenantRecord], before: Snapshot | None) -> dict[str, int]:
    if before is None:
        return {}
    ids = before.tenants.keys() | tenants.keys()
    changed = {i: version for i in ids if before.tenants.get(i) != tenants.get(i)}
    return {**before.touched, **changed}


def parse_sources(sources: Mapping[str, DeployedFile]) -> Project:
    """The project that consists of deployed files."""
    return Project.of([_resource(s.text, s.file, n) for n, s in sources.items()])


@lru_cache(maxsize=10_000)
def _resource(text: str, file: str, name: str) -> Resource:
    """A parsed file. Cached, because most files are the same in every push."""
    return parse_source(text, file, name)
