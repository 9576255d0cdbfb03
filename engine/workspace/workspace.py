"""What is deployed: sources, tenants, tokens and keys, compiled into one immutable snapshot.

A running server holds one snapshot and swaps it for the next when the registry's version has grown, so that a new
tenant, token or pipe is known within a second, without restart.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal, Protocol, TypeVar, cast

from engine.cache import LruCache
from engine.compiler.build import Build, build
from engine.compiler.compose import Verifier
from engine.compiler.views import pool_table
from engine.plan.backfill import Backfill
from engine.plan.coverage import COVERAGE_KIND as COVERAGE
from engine.plan.coverage import Consumed, Coverage
from engine.plan.view_lock import ViewLock
from engine.project.model import Project, Resource
from engine.project.parse import parse_source
from engine.schema import Name, Schema, View, nest_database
from engine.settings import Settings
from engine.tokens import SigningKey, StaticToken, new_secret
from engine.warehouse import ddl
from engine.warehouse.port import Warehouse
from engine.warehouse.registry import Registry
from engine.workspace.analyser import Analyser
from engine.workspace.layout import Opening, bring_up

T = TypeVar("T")
Placement = Literal["pooled", "tables"]
KINDS = ("resource", "tenant", "token", "key", "secret", "fanout", "suspended")
DEFERRED = "deferred"
"""Views that could not be made yet, in the registry: their tenant, and since when they wait."""


@dataclass(frozen=True, slots=True)
class TenantRecord:
    """A customer of the workspace's owner. `state` is adding, ready or removing."""

    id: str
    placement: Placement
    state: str
    created_at: str = ""

    def as_dict(self) -> dict[str, Any]:
        return {"id": self.id, "placement": self.placement, "state": self.state, "created_at": self.created_at}

    def nest(self, workspace: str) -> str | None:
        """The database of the tenant's own tables; None for a pooled tenant."""
        return nest_database(workspace, self.id) if self.placement == "tables" else None


@dataclass(frozen=True, slots=True)
class DeployedFile:
    """A deployed file: its text and the path it had in the checkout."""

    text: str
    file: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that a request needs to know about the workspace, at one version of the registry."""

    version: int
    build: Build
    sources: Mapping[str, DeployedFile]
    tenants: Mapping[str, TenantRecord]
    tokens: Mapping[str, StaticToken]
    keys: tuple[SigningKey, ...]
    secret: str
    modes: Mapping[str, str] = field(default_factory=dict)
    """How landing datasources reach the nests, `direct` or `routed`; `direct` where nothing is said."""
    suspended: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Views that are down, or go on without some tenants, with what is noted of them."""
    touched: Mapping[str, int] = field(default_factory=dict)
    """The version at which tenants came, changed or went, as far as that was since the start."""
    cache: LruCache[object, object] = field(default_factory=LruCache)
    """Values that `derived` has computed from this snapshot."""

    @property
    def routed(self) -> frozenset[str]:
        """Landing datasources whose rows a router brings to the nests."""
        return frozenset(n for n, m in self.modes.items() if m == "routed")

    def derived(self, key: object, make: Callable[[], T]) -> T:
        """The cached value of a key, or the result of `make`, which is then cached. It may be called twice at once."""
        value = self.cache.get(key)
        if value is None:
            value = self.cache.put(key, make())
        return cast(T, value)


class Closable(Protocol):
    """Something that ends."""

    def close(self) -> None: ...


class Workspace:
    """The live workspace of this process: its database, its fence, and the current snapshot."""

    def __init__(self, settings: Settings, warehouse: Warehouse) -> None:
        self.settings = settings
        self.warehouse = warehouse
        self.view_lock = ViewLock()
        self.insert_lock = self.view_lock.inserts
        self.changes = threading.RLock()
        """Held by whoever changes what exists; one change at a time."""
        self.registry = Registry(warehouse, settings.workspace)
        bring_up(Opening(warehouse, self.registry, settings))
        warehouse.keep_zone()
        self.verifier = Verifier(warehouse)
        self.analyser = Analyser(warehouse, settings.workspace)
        warehouse.execute(ddl.create_table(pool_table(settings.workspace)))
        self.attached: dict[str, Closable] = {}
        """Services that live as long as the workspace."""
        self.on_views_deferred: Callable[[], None] = lambda: None
        """Called when views could not be made yet, since rows on their way to a tenant would come twice."""
        self._first_use()
        self._refreshing = threading.Lock()
        self._current = self._load(None)

    @property
    def zone(self) -> str:
        """The time zone in which rows are written and read."""
        return self.warehouse.zone

    @property
    def name(self) -> str:
        return self.settings.workspace

    @property
    def current(self) -> Snapshot:
        return self._current

    def refresh(self) -> Snapshot:
        """The snapshot of the registry's present version; compiled again only when it has grown."""
        with self._refreshing:
            if self.registry.version() != self._current.version:
                self._current = self._load(self._current)
            return self._current

    def compile(
        self,
        project: Project,
        told: frozenset[str] = frozenset(),
        tolerated: frozenset[str] | None = frozenset(),
    ) -> Build:
        """Compile a project against this database, without what was `told` to be wrong. Raises Problems.

        `tolerated` are pipes that may share tenants' rows undeclared, because they are deployed like this; None for
        all.
        """
        return build(project, self.name, self.verifier, self.analyser, reported=told, tolerated=tolerated)

    def close(self) -> None:
        for service in self.attached.values():
            service.close()
        self.analyser.close()
        self.warehouse.close()

    def _first_use(self) -> None:
        secrets = self.registry.read_all(["key", "secret"])
        if "key" not in secrets:
            key = SigningKey.new()
            self.registry.write("key", {key.id: {"secret": key.secret, "retires": None}})
        if "secret" not in secrets:
            self.registry.write("secret", {"static": {"secret": new_secret()}})

    def _load(self, before: Snapshot | None) -> Snapshot:
        version = self.registry.version()
        rows = self.registry.read_all(KINDS)
        sources = {n: DeployedFile(b["text"], b["file"]) for n, b in rows.get("resource", {}).items()}
        if before is not None and before.sources == sources:
            compiled = before.build
        else:
            compiled = self.compile(parse_sources(sources), tolerated=None)
        keys = tuple(SigningKey(i, b["secret"], b["retires"]) for i, b in rows.get("key", {}).items())
        tokens = [StaticToken.of(b) for b in rows.get("token", {}).values()]
        tenants = {i: TenantRecord(**b) for i, b in rows.get("tenant", {}).items()}
        touched: dict[str, int] = {}
        if before is not None:
            ids = before.tenants.keys() | tenants.keys()
            changed = {i: version for i in ids if before.tenants.get(i) != tenants.get(i)}
            touched = {**before.touched, **changed}
        return Snapshot(
            version=version,
            build=compiled,
            sources=sources,
            tenants=tenants,
            touched=touched,
            tokens={t.nonce: t for t in tokens},
            keys=tuple(sorted(keys, key=lambda k: (k.retires is not None, k.id))),
            secret=rows["secret"]["static"]["secret"],
            modes={n: str(b["mode"]) for n, b in rows.get("fanout", {}).items()},
            suspended=rows.get("suspended", {}),
        )


def parse_sources(sources: Mapping[str, DeployedFile]) -> Project:
    """The project that deployed sources make up."""
    return Project.of([_resource(s.text, s.file, n) for n, s in sources.items()])


@lru_cache(maxsize=10_000)
def _resource(text: str, file: str, name: str) -> Resource:
    """One source as parsed; the same few come with every push."""
    return parse_source(text, file, name)


class RegistryJournal:
    """Notes deliveries of history in the registry."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def record_consumed(self, views: Sequence[View], empty: Collection[Name]) -> None:
        coverage = Coverage(self._registry.warehouse, self._registry, Schema())
        known = self._registry.read(COVERAGE) if views else {}
        made = {v.name: Consumed() if v.name in empty else coverage.consumed(v) for v in views}
        found = {str(n): c.as_dict() for n, c in made.items()}
        nothing = Consumed().as_dict()
        self._registry.write(COVERAGE, {n: b for n, b in found.items() if b != known.get(n, nothing)})

    def record_continued(self, views: Sequence[View]) -> None:
        coverage = Coverage(self._registry.warehouse, self._registry, Schema())
        self._registry.write(COVERAGE, {str(v.name): coverage.continued(v).as_dict() for v in views})

    def record_deferred(self, deferred: Sequence[View], created: Sequence[View]) -> None:
        known = self._registry.read(DEFERRED)
        self._registry.remove(DEFERRED, [n for v in created if (n := str(v.name)) in known])
        since = datetime.now(UTC).isoformat(timespec="seconds")
        bodies = {str(v.name): {"tenant": v.mark.tenant if v.mark else None, "since": since} for v in deferred}
        self._registry.write(DEFERRED, {n: b for n, b in bodies.items() if n not in known})

    def record_newest_blocks(self) -> None:
        self._registry.write("settled", {"blocks": self._registry.newest_blocks()})

    def record(self, histories: Any) -> None:
        self._registry.write("history", {h.id: h.as_dict() for h in histories})

    def delete(self, histories: Any) -> None:
        self._registry.remove("history", [h.id for h in histories])

    def outstanding(self) -> list[Backfill]:
        return [Backfill.of(b) for b in self._registry.read("history").values()]
