"""Records how one endpoint call is composed and run, for `query/explain`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from engine.compiler.build import Build
from engine.compiler.compose import Caller, Composed, Composer, Verifier
from engine.sql.verify import Parser, Verified
from engine.template.environment import Binder, Template
from engine.warehouse.port import Statement
from engine.workspace.snapshot import Snapshot


@dataclass(slots=True)
class Trace:
    """The statement of a call, and the milliseconds that composing it took. One call fills it, in one thread."""

    parser: Parser
    snapshot: Snapshot | None = None
    """The snapshot that the call used."""
    tenant: str | None = None
    """The tenant whose rows it read; None for all rows."""
    statement: Statement | None = None
    """The statement that ran last."""
    runs: int = 0
    """How often a statement ran: twice if the first one failed and the barrier was needed."""
    template: float = 0.0
    """Milliseconds of rendering."""
    verify: float = 0.0
    """Milliseconds of verifying SQL."""

    def composed(self, build: Build, pipe: str, caller: Caller) -> Composed:
        """The statement of a pipe, composed as in any call, but with empty caches.

        The times are those of the last composition for a first run. A call starts again if tenants change meanwhile.
        """
        if caller.scope.barrier:
            return Composer(Verifier(self.parser)).request(build, pipe, caller)
        self.runs, self.template, self.verify = 0, 0.0, 0.0
        composer = Composer(_TimedVerifier(self))
        render = caller.render

        def timed(template: Template, binder: Binder, columns: frozenset[str]) -> str:
            started = time.perf_counter()
            try:
                return render(template, binder, columns)
            finally:
                self.template += (time.perf_counter() - started) * 1000

        return composer.request(build, pipe, replace(caller, render=timed))

    def opened(self, statement: Statement, snapshot: Snapshot, tenant: str | None) -> None:
        """Record a statement that is about to run."""
        self.statement, self.snapshot, self.tenant = statement, snapshot, tenant
        self.runs += 1


class _TimedVerifier(Verifier):
    """A verifier with empty caches that adds its time to a trace."""

    def __init__(self, trace: Trace) -> None:
        super().__init__(trace.parser)
        self._trace = trace

    def __call__(
        self, sql: str, bound: frozenset[str], placeholders: Mapping[str, str] | None = None, *, view: bool = False
    ) -> Verified:
        started = time.perf_counter()
        try:
            return super().__call__(sql, bound, placeholders, view=view)
        finally:
            self._trace.verify += (time.perf_counter() - started) * 1000
