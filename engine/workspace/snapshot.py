"""The snapshot: everything that is deployed in a workspace, as an immutable value."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache, wraps
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar, cast

from engine.cache import LruCache
from engine.compiler.build import Build
from engine.errors import Collector, RookeryError
from engine.project.model import Project, Resource
from engine.project.parse import parse_source
from engine.schema import nest_database
from engine.tokens.jwts import SigningKey
from engine.tokens.static_tokens import TOKEN_KINDS, StaticToken

T = TypeVar("T")
P = ParamSpec("P")
Placement = Literal["pooled", "tables"]
PURGED_KIND = "purged"
"""The registry's kind for purged tenants that have not been added again, by id."""
READDED_KIND = "readded"
"""The registry's kind for tenants that were added again after a purge, by id, with the time in nanoseconds."""
SNAPSHOT_KINDS = (
    "resource", "tenant", *TOKEN_KINDS, "key", "secret", "fanout", "suspended", PURGED_KIND, READDED_KIND,
)  # fmt: skip
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


def _no_results() -> LruCache[Hashable, object]:
    return LruCache()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that a request needs to know about the workspace, at one version of the registry."""

    version: int
    """The registry's version when it was loaded."""
    build: Build
    """The deployed files, compiled."""
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
    purged: frozenset[str] = frozenset()
    """Ids of purged tenants, which have not been added again."""
    readded: Mapping[str, str] = field(default_factory=dict)
    """When tenants were added again after a purge, by id. They may use the keys of their earlier requests again."""
    zone: str = "UTC"
    """The workspace's time zone."""
    touched: Mapping[str, int] = field(default_factory=dict)
    """The version at which a tenant was added, changed or removed, for changes since the start of this process."""
    cache: LruCache[Hashable, object] = field(default_factory=_no_results, repr=False, compare=False)
    """Results of the functions marked `per_snapshot`. They are dropped together with the snapshot."""

    @property
    def routed(self) -> frozenset[str]:
        """Landing datasources with a fan-out worker."""
        return frozenset(n for n, m in self.modes.items() if m == "routed")

    def renewed(self) -> Snapshot:
        """The same snapshot without cached results."""
        return replace(self, cache=_no_results())


def per_snapshot(compute: Callable[Concatenate[Snapshot, P], T]) -> Callable[Concatenate[Snapshot, P], T]:
    """Cache a function's results in the snapshot that is its first argument. The other arguments must be hashable.

    The function may only depend on its arguments, otherwise results of an old snapshot would mix with those of a new
    one. Two threads may compute the same value at once; one of the results stays. None is not cached.
    """

    @wraps(compute)
    def cached(snapshot: Snapshot, /, *args: P.args, **kwargs: P.kwargs) -> T:
        key = (compute, args, *kwargs.items())
        value = snapshot.cache.get(key)
        if value is None:
            value = compute(snapshot, *args, **kwargs)
            if value is not None:
                snapshot.cache.put(key, value)
        return cast(T, value)

    return cached


Compile = Callable[[Mapping[str, DeployedFile]], Build]
"""Compiles deployed files, by name of the resource."""


def snapshot_of(
    version: int, rows: Mapping[str, Mapping[str, Any]], before: Snapshot | None, compile: Compile, zone: str
) -> Snapshot:
    """The snapshot of registry records by kind and name. Compiles only if files have changed since `before`."""
    sources = {n: DeployedFile(b["text"], b["file"]) for n, b in rows.get("resource", {}).items()}
    unchanged = before is not None and before.sources == sources
    keys = tuple(SigningKey(i, b["secret"], b["retires"]) for i, b in rows.get("key", {}).items())
    tokens = [StaticToken.of(b) for kind in TOKEN_KINDS for b in rows.get(kind, {}).values()]
    tenants = {i: TenantRecord(**b) for i, b in rows.get("tenant", {}).items()}
    return Snapshot(
        version=version,
        # Compiling takes seconds, and a new tenant or token does not change the files.
        build=before.build if before is not None and unchanged else compile(sources),
        sources=sources,
        tenants=tenants,
        touched=_touched(version, tenants, before),
        tokens={t.nonce: t for t in tokens},
        # The current key has no retirement date, so it comes first.
        keys=tuple(sorted(keys, key=lambda k: (k.retires is not None, k.id))),
        secret=rows["secret"]["static"]["secret"],
        modes={n: str(b["mode"]) for n, b in rows.get("fanout", {}).items()},
        suspended=rows.get("suspended", {}),
        purged=frozenset(rows.get(PURGED_KIND, {})),
        zone=zone,
        readded={i: str(b["at"]) for i, b in rows.get(READDED_KIND, {}).items()},
    )


def _touched(version: int, tenants: Mapping[str, TenantRecord], before: Snapshot | None) -> dict[str, int]:
    """The versions of `before`, with this version for each tenant that differs from it."""
    if before is None:
        return {}
    ids = before.tenants.keys() | tenants.keys()
    changed = {i: version for i in ids if before.tenants.get(i) != tenants.get(i)}
    return {**before.touched, **changed}


def parse_sources(sources: Mapping[str, DeployedFile]) -> Project:
    """The project that consists of deployed files. Raises Problems that lists everything wrong in all of them."""
    problems, resources = Collector(), []
    for name, source in sources.items():
        try:
            resources.append(_resource(source.text, source.file, name))
        except RookeryError as problem:
            problems.add(problem)
    problems.raise_if_any()
    return Project.of(resources)


@lru_cache(maxsize=10_000)
def _resource(text: str, file: str, name: str) -> Resource:
    """A parsed file. Cached, because most files are the same in every push."""
    return parse_source(text, file, name)
