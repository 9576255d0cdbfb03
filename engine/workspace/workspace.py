"""The live workspace: its database, its locks, and the current snapshot of what is deployed.

A running server holds one snapshot and replaces it when the registry's version has increased. So a new tenant, token
or pipe is known within a second, without a restart.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar, cast

from engine.compiler.build import Build, KnownProblems, build
from engine.compiler.compose import Verifier
from engine.compiler.views import pool_table
from engine.plan.insert_lock import InsertLock
from engine.plan.view_lock import ViewLock
from engine.project.model import Project
from engine.settings import Settings
from engine.tokens.jwts import SigningKey
from engine.tokens.static_tokens import new_secret
from engine.warehouse import ddl
from engine.warehouse.port import Warehouse
from engine.warehouse.registry import Registry
from engine.workspace.analyser import Analyser
from engine.workspace.interrupted_backup import drop_comparison, end_interrupted_backup
from engine.workspace.layout import Opening, migrate
from engine.workspace.pending_appends import PendingAppends
from engine.workspace.restored_tables import refuse_unfinished_restore
from engine.workspace.snapshot import SNAPSHOT_KINDS, DeployedFile, Snapshot, parse_sources, snapshot_of


class Closable(Protocol):
    """A service that can be closed."""

    def close(self) -> None:
        """Close it, and wait until its threads have ended."""
        ...


S = TypeVar("S", bound=Closable)


class Workspace:
    """The live workspace of this process. Used by all threads."""

    def __init__(self, settings: Settings, warehouse: Warehouse) -> None:
        self.settings = settings
        self.warehouse = warehouse
        self.view_lock = ViewLock()
        self.insert_lock = self.view_lock.inserts
        self.batch_lock = InsertLock()
        """Shared while a batch is recorded and committed: a backup, which holds it exclusively, has whole batches."""
        self.pending_appends = PendingAppends()
        self.changes = threading.RLock()
        """Held during a push, a change to tenants or a repair: one at a time."""
        refuse_unfinished_restore(warehouse, settings.workspace)
        self.registry = Registry(warehouse, settings.workspace)
        # Again: a restore that has begun since then sees the database, or is seen here.
        refuse_unfinished_restore(warehouse, settings.workspace)
        migrate(Opening(warehouse, self.registry, settings))
        end_interrupted_backup(self.registry, warehouse, settings.workspace)
        drop_comparison(warehouse, settings.workspace)
        # Only now: the migration has refused a database that runs in another zone than the workspace.
        warehouse.keep_zone()
        self.verifier = Verifier(warehouse)
        self.analyser = Analyser(warehouse, settings.workspace)
        warehouse.execute(ddl.create_table(pool_table(settings.workspace)))
        self.attached: dict[str, Closable] = {}
        """Services that are closed with the workspace, by name."""
        self.on_views_deferred: Callable[[], None] = lambda: None
        """Called if views could not be created because rows have not been delivered to a tenant yet."""
        self._create_secrets()
        self._refreshing = threading.Lock()
        self._prepared: tuple[Mapping[str, DeployedFile], Build] | None = None
        # Only replaced as a whole, so threads read it without a lock.
        self._current = self._load(None, self.registry.version())

    @property
    def zone(self) -> str:
        """The time zone in which rows are written and read."""
        return self.warehouse.zone

    @property
    def name(self) -> str:
        """The name of the workspace, which is also that of its database."""
        return self.settings.workspace

    @property
    def current(self) -> Snapshot:
        """The current snapshot. A request reads this once, so that it sees one state throughout."""
        return self._current

    def refresh(self) -> Snapshot:
        """Load the current version of the registry if it differs from the snapshot's. Returns the snapshot."""
        with self._refreshing:
            version = self.registry.version()
            if version != self._current.version:
                self._current = self._load(self._current, version)
            return self._current

    def renew(self) -> None:
        """Drop what was cached for the current snapshot: a table was exchanged with another one."""
        with self._refreshing:
            self._current = self._current.renewed()

    def compile(
        self,
        project: Project,
        reported: frozenset[str] = frozenset(),
        tolerated: frozenset[str] | None = frozenset(),
    ) -> Build:
        """Compile a project against this database, without the resources in `reported`. Raises Problems.

        The pipes in `tolerated` may share tenants' rows without a declaration, because they are already deployed;
        None means all pipes.
        """
        return build(project, self.name, self.verifier, self.analyser, KnownProblems(reported, tolerated))

    def prepare(self, sources: Mapping[str, DeployedFile], build: Build) -> None:
        """Keep the build of files that a push is about to deploy, so that `refresh` does not compile them again."""
        self._prepared = (sources, build)

    def service(self, name: str, create: Callable[[], S], start: Callable[[S], None] = lambda _service: None) -> S:
        """The attached service of a name. The first caller creates and starts it; `close` closes it."""
        # A request must not wait for a running change, so the first lookup does not take the lock.
        service = self.attached.get(name)
        if service is None:
            with self.changes:
                # Another thread may have created it while this one waited for the lock.
                service = self.attached.get(name)
                if service is None:
                    service = self.attached[name] = create()
                    start(service)
        return cast(S, service)

    def close(self) -> None:
        """Close the attached services and the database."""
        # Services are closed first, because their threads use the database.
        for service in self.attached.values():
            service.close()
        self.analyser.close()
        self.warehouse.close()

    def _create_secrets(self) -> None:
        """Create the signing key and the secret of static tokens on first use."""
        secrets = self.registry.read_all(["key", "secret"])
        created: dict[str, dict[str, dict[str, str | None]]] = {}
        if "key" not in secrets:
            key = SigningKey.new()
            created["key"] = {key.id: {"secret": key.secret, "retires": None}}
        if "secret" not in secrets:
            created["secret"] = {"static": {"secret": new_secret()}}
        self.registry.write_all(created)

    def _load(self, before: Snapshot | None, version: int) -> Snapshot:
        """A snapshot of the registry. The caller reads the version first: if the registry changes before the rows are
        read, the next refresh loads them again.
        """
        rows = self.registry.read_all(SNAPSHOT_KINDS)
        return snapshot_of(version, rows, before, self._build, self.zone)

    def _build(self, sources: Mapping[str, DeployedFile]) -> Build:
        # A refresh in any thread may get here first. The comparison keeps it from using a build of other files.
        prepared = self._prepared
        if prepared is not None and prepared[0] == sources:
            self._prepared = None
            return prepared[1]
        return self.compile(parse_sources(sources), tolerated=None)
