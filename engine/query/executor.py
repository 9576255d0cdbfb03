"""Runs a query from the request to its first bytes: authorize → compose → bind → execute. Each stage is timed.

Nothing that a caller sends becomes part of a statement's text. An error before the first byte never contains the
engine's own message, which may quote rows of other tenants; see `engine/query/errors.py`.

All functions in this module run in a worker thread.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import structlog

from engine.cache import LruCache, size_of
from engine.compiler.build import Build
from engine.compiler.compose import Caller, Composed, Render, Verifier
from engine.compiler.error_location import unknown_name
from engine.compiler.scope import CHECKED_TENANT_PREFIX, Scope
from engine.errors import (
    CANCELLED,
    QUERY_FAILED,
    SQL_SEMANTICS,
    TIMEOUT,
    UNKNOWN_RESOURCE,
    RookeryError,
    did_you_mean,
)
from engine.project.pipe import Limits
from engine.query import authorize
from engine.query.all_tenants import is_unchanged, with_stable_tenants
from engine.query.arguments import Arguments
from engine.query.errors import OWN_CODES, add_quotes_hint, error_for_caller
from engine.query.failing_constants import MAX_SHOWN_CHARACTERS, failing_constant
from engine.query.limits import InFlight, Rates, SharedLimit
from engine.query.request import QueryRequest
from engine.query.result import QueryResult
from engine.query.running import RunningQueries
from engine.query.statistics import ClosingStatistics
from engine.sql.argument_bounds import SMALL_BLOCKS, block_settings
from engine.sql.checker import UnknownTableError
from engine.sql.tree import Node
from engine.sql.verify import Verified
from engine.template.environment import Binder, Template
from engine.template.parameters import coerce
from engine.tokens.claims import Claims
from engine.warehouse.errors import EngineError
from engine.warehouse.port import Format, Statement, Stream, Value, limit_settings
from engine.warehouse.render import QUOTE_SETTING
from engine.workspace.snapshot import Snapshot, per_snapshot
from engine.workspace.workspace import Workspace

log = structlog.get_logger("rookery.query")

Compose = Callable[[Scope], Composed]

COMPOSED_CACHE_ENTRIES = 1000
"""Maximum number of endpoint statements that a snapshot caches."""
CACHEABLE_VALUE_CHARACTERS = 1000
"""Maximum total length of the parameter values for which a statement is cached."""
AD_HOC_TAG = "query_api"
CONSTANT_SECONDS = 1
"""How long a call of constants may be evaluated to name it in an error."""


@dataclass(frozen=True, slots=True)
class Execution:
    """One authorized query."""

    request: QueryRequest
    snapshot: Snapshot
    """The snapshot that the scope was derived from."""
    scope: Scope
    """The relations that the caller may read."""
    compose: Compose
    """Composes the statement for a scope. It is called again, with the barrier, if the first run fails."""
    tag: str
    """The name of the pipe, for logs and limits; `query_api` for ad-hoc SQL."""
    limits: Limits
    """The endpoint's own limits; zero where the settings apply."""


class Queries:
    """Runs endpoint calls and ad-hoc SQL against the workspace's current snapshot."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self.in_flight = InFlight()
        self.running = RunningQueries(workspace.warehouse.cancel, workspace.settings.stuck_seconds)
        self._rates = Rates()

    def endpoint(self, request: QueryRequest, pipe: str) -> QueryResult:
        """Call an endpoint. Raises RK4xxx errors before the first byte."""

        def begin(snapshot: Snapshot, datasources_read: set[str]) -> QueryResult:
            granted = authorize.for_pipe(snapshot, self._workspace, request, pipe)
            compiled = snapshot.build.pipes[pipe]
            arguments = Arguments(self._workspace, snapshot, request.parameters, granted.fixed)
            values, ignored = arguments.values([pipe]), arguments.without_effect([pipe])
            quoted = self._quotes_integers(request, compiled.quoted)
            self._count_request(request.claims)

            def compose(scope: Scope) -> Composed:
                # Without parameters, all callers send the same.
                owner = request.claims.caller if request.parameters else None
                caller = Caller(_renderer(values, self._workspace.zone), scope, owner)
                if request.trace is not None:
                    composed = request.trace.composed(snapshot.build, pipe, caller)
                else:
                    composed = _composed_endpoint(snapshot, pipe, values, caller)
                datasources_read.update(composed.relations)
                return replace(composed, quoted=quoted)

            result = self._run(Execution(request, snapshot, granted.scope, compose, pipe, compiled.limits))
            result.ignored = ignored
            return result

        return self._with_stable_tenants(request, begin)

    def sql(self, request: QueryRequest, text: str) -> QueryResult:
        """Run ad-hoc SQL over the resources that the token names. Raises RK4xxx errors before the first byte."""

        def begin(snapshot: Snapshot, datasources_read: set[str]) -> QueryResult:
            granted = authorize.for_sql(snapshot, self._workspace, request)
            build = snapshot.build
            arguments = Arguments(self._workspace, snapshot, request.parameters, granted.fixed)
            quoted = self._quotes_integers(request, None)
            ignored: frozenset[str] = frozenset()
            self._count_request(request.claims)

            def compose(scope: Scope) -> Composed:
                nonlocal ignored
                # Only the pipes that the SQL reads determine which parameters exist, so the SQL is parsed first.
                verified = _verified(build.composer.verifier, text, granted.names, request.claims)
                pipes = sorted(verified.reads & set(build.pipes))
                ignored = arguments.without_effect(pipes)
                renderer = _renderer(arguments.values(pipes), self._workspace.zone)
                caller = Caller(renderer, scope, request.claims.caller)
                composed = build.composer.adhoc(build, text, granted.names, caller)
                datasources_read.update(composed.relations)
                return replace(composed, quoted=quoted)

            execution = Execution(request, snapshot, granted.scope, compose, AD_HOC_TAG, Limits())
            try:
                result = self._run(execution)
            except RookeryError as exc:
                add_quotes_hint(exc, text)
                if exc.code is QUERY_FAILED and exc.hint is None:
                    # Without a hint, the caller still gets the error of the query.
                    with suppress(RookeryError), self._counted(execution):
                        exc.hint = self._hint_at_constant(exc, request, text, granted.names)
                name = unknown_name(exc.message)
                if request.claims.reads_all and exc.code is SQL_SEMANTICS and exc.hint is None and name:
                    verified = _verified(build.composer.verifier, text, granted.names, request.claims)
                    exc.hint = did_you_mean(name.rpartition(".")[2], _columns(build, verified.reads))
                raise
            result.ignored = ignored
            return result

        return self._with_stable_tenants(request, begin)

    def _hint_at_constant(
        self, exc: RookeryError, request: QueryRequest, text: str, names: frozenset[str]
    ) -> str | None:
        """A hint that names a call of constants in a caller's SQL that fails with the same error on any rows."""
        cause, verifier = exc.__cause__, self._workspace.current.build.composer.verifier
        if not isinstance(cause, EngineError) or cause.engine_code is None or "{{" in text or "{%" in text:
            return None
        parser, settings = verifier.parser.uncached, self._workspace.settings
        limits = limit_settings(
            seconds=CONSTANT_SECONDS, memory=settings.max_memory, total_memory=settings.total_memory, rows=1
        )

        def sql_of(call: Node) -> str:
            tree, _ = parser.parse("SELECT 1")
            tree["list_of_selects"]["children"][0]["select"]["children"] = [call]
            return parser.format(tree)

        def fails_with(call: Node) -> int | None:
            statement = Statement(
                sql_of(call), {}, limits | SMALL_BLOCKS, AD_HOC_TAG, owner=request.claims.caller, is_sent=True
            )
            try:
                self._started(request, statement, Format.NDJSON).close()
            except EngineError as exc:
                return exc.engine_code
            return None

        verified = _verified(verifier, text, names, request.claims)
        call = failing_constant(parser.parse(verified.canonical)[0], fails_with, cause.engine_code)
        if call is None:
            return None
        return f"`{sql_of(call).removeprefix('SELECT ')[:MAX_SHOWN_CHARACTERS]}` fails, whatever the rows are"

    def _with_stable_tenants(
        self, request: QueryRequest, begin: Callable[[Snapshot, set[str]], QueryResult]
    ) -> QueryResult:
        """Begin a query. If it reads all tenants, start it again when tenants are added or removed in the
        meantime.
        """
        if request.claims.reads_all and request.impersonated_tenant is None:
            return with_stable_tenants(self._workspace, begin)
        return begin(self._workspace.current, set())

    def _quotes_integers(self, request: QueryRequest, endpoint: bool | None) -> bool:
        """Whether 64-bit and larger integers are strings, as specified by the request, else the endpoint, else the
        settings.

        Raises RK4006 for a value that is not a boolean.
        """
        if QUOTE_SETTING in request.parameters:
            return bool(coerce(QUOTE_SETTING, "Bool", request.parameters[QUOTE_SETTING]))
        return self._workspace.settings.quote_64bit_integers if endpoint is None else endpoint

    def _count_request(self, claims: Claims) -> None:
        """Count a request of a token with a limit of requests per second. Raises RK4010 over the limit."""
        if claims.rps:
            self._rates.count(claims.identity, claims.rps)

    def _run(self, execution: Execution) -> QueryResult:
        """Run a query within the limits of its token, tenant and endpoint. Raises RK4010 when one is reached."""
        timer = execution.request.timer
        # Composing may query the database too, so it counts as running.
        keys = self._enter(execution)
        try:
            statement = self._statement(execution)
            timer.stage("compose")
            result = self._open_for_stable_tenant(execution, statement)
        except BaseException:
            self.in_flight.leave(keys)
            raise
        result.when_closed(lambda: self.in_flight.leave(keys))
        timer.stage("query")
        return result

    def _enter(self, execution: Execution) -> list[Hashable]:
        """Count a query of its token, tenant and endpoint. Returns what `leave` takes. Raises RK4010 at a limit."""
        claims, max_concurrent = execution.request.claims, self._workspace.settings.max_concurrent
        limits: list[tuple[Any, int]] = [(("token", claims.identity), max_concurrent)]
        if execution.scope.tenant is not None:
            limits.append((("tenant", execution.scope.tenant), max_concurrent))
        return self.in_flight.enter(limits, _endpoint_limit(execution))

    @contextmanager
    def _counted(self, execution: Execution) -> Iterator[None]:
        """Count queries about a query that has failed, within the same limits."""
        keys = self._enter(execution)
        try:
            yield
        finally:
            self.in_flight.leave(keys)

    def _open_for_stable_tenant(self, execution: Execution, statement: Statement) -> QueryResult:
        """Open the query. Raises RK4030 if its tenant is added or removed before the engine holds all of its tables.

        A tenant that is being removed loses its rows while a query that was composed before is still being planned.
        """
        result, error = None, None
        try:
            result = self._open_or_rerun(execution, statement)
        except RookeryError as exc:
            error = exc
        tenant = execution.scope.tenant
        if tenant is not None and not is_unchanged(tenant, execution.snapshot, self._workspace.current):
            if result is not None:
                result.close()
            raise authorize.tenant_changing() from error
        if result is None:
            assert error is not None
            raise error
        return result

    def _open_or_rerun(self, execution: Execution, statement: Statement) -> QueryResult:
        """Open the query; if it fails, open it again behind the barrier. The caller gets the outcome of the second
        run.
        """
        claims, scope = execution.request.claims, execution.scope
        execution.request.ticket.seconds = execution.limits.max_seconds or self._workspace.settings.max_seconds
        try:
            return self._open(execution, statement)
        except RookeryError as exc:
            if exc.code in OWN_CODES or (claims.reads_all and scope.tenant is None):
                raise error_for_caller(exc, reads_all=claims.reads_all) from exc
            log.warning("query failed", pipe=execution.tag, subject=claims.subject, error=exc)
            if exc.code is TIMEOUT or (scope.tenant is None and not scope.filters):
                raise error_for_caller(exc, reads_all=False) from exc
        # The engine may evaluate functions on index values or on rows of other tenants, and fail there. Behind the
        # barrier it evaluates them only on the caller's rows.
        behind_barrier = replace(execution, scope=replace(scope, barrier=True))
        try:
            return self._open(behind_barrier, self._statement(behind_barrier))
        except RookeryError as exc:
            raise error_for_caller(exc, reads_all=claims.reads_all) from exc

    def _open(self, execution: Execution, statement: Statement) -> QueryResult:
        """Start a statement and read ahead. Raises the engine's errors unchanged."""
        request = execution.request
        if request.trace is not None:
            request.trace.opened(statement, execution.snapshot, execution.scope.tenant)
        return self._started(request, statement, request.format)

    def _started(self, request: QueryRequest, statement: Statement, format: Format) -> QueryResult:
        """Start any statement of a request, under the request's ticket: it ends when the client disconnects."""
        # The client may have disconnected while the query waited or was composed.
        if request.ticket.cancelled:
            raise RookeryError(CANCELLED, "the query was cancelled")
        stream: Stream = self._workspace.warehouse.stream(replace(statement, id=request.ticket.id), format)
        if format is Format.JSON:
            stream = ClosingStatistics(stream, show_read_rows=request.claims.reads_all)
        return QueryResult(stream, partial(self.running.watch, request.ticket))

    def _statement(self, execution: Execution) -> Statement:
        """The composed statement with its bindings and limits."""
        claims, scope, limits = execution.request.claims, execution.scope, execution.limits
        composed = execution.compose(scope)
        settings = self._workspace.settings
        bindings: dict[str, Value] = dict(composed.bindings)
        # The second check compares with the tenant in the token and not with the scope, so that it detects a mistake
        # in the scope.
        checked_tenant = scope.tenant if claims.tenant is None else claims.tenant
        for name in composed.assembled.placeholders:
            bindings[name] = checked_tenant if name.startswith(CHECKED_TENANT_PREFIX) else scope.tenant
        engine_limits = limit_settings(
            seconds=limits.max_seconds or settings.max_seconds,
            memory=limits.max_memory or settings.max_memory,
            total_memory=settings.total_memory,
            rows=limits.max_rows or settings.max_rows,
        )
        is_sent = execution.tag == AD_HOC_TAG
        engine_limits |= block_settings(is_slow=composed.assembled.slow, is_sent=is_sent and not claims.reads_all)
        return Statement(
            composed.sql, bindings, engine_limits, execution.tag,
            quoted=composed.quoted, owner=claims.caller, is_sent=is_sent,
        )  # fmt: skip


def _endpoint_limit(execution: Execution) -> SharedLimit | None:
    """The endpoint's own limit of concurrent queries, which tenants (and tokens without a tenant) share."""
    limit, claims = execution.limits.max_concurrent, execution.request.claims
    if not limit:
        return None
    return SharedLimit(("pipe", execution.tag), ("pipe", execution.tag, *claims.caller), limit)


def _verified(verifier: Verifier, text: str, names: frozenset[str], claims: Claims) -> Verified:
    """Ad-hoc SQL, verified.

    Raises RK3007 instead of RK2004 for a missing table if the caller reads all of them, so that nothing is hidden.
    """
    try:
        return verifier.sent(text, names, claims.caller)
    except UnknownTableError as exc:
        if not claims.reads_all:
            raise
        hint = exc.hint or "rookery datasource ls; rookery pipe ls"
        raise RookeryError(UNKNOWN_RESOURCE, exc.message, hint=hint, place=exc.place) from exc


def _columns(build: Build, reads: frozenset[str]) -> set[str]:
    """The columns of everything that ad-hoc SQL reads."""
    found = {c for name in reads if name in build.relations for c in build.relations[name].columns}
    return found | {c.name for name in reads for c in build.outputs.get(name, ())}


def _composed_endpoint(snapshot: Snapshot, pipe: str, values: Mapping[str, Any], caller: Caller) -> Composed:
    """An endpoint's statement, cached by everything that its SQL depends on, and by who sent the values."""
    cacheable = (
        all(type(v) in (str, int) for v in values.values())
        and sum(len(str(v)) for v in values.values()) < CACHEABLE_VALUE_CHARACTERS
    )
    build = snapshot.build
    if not cacheable:
        return build.composer.request(build, pipe, caller)
    cache = _composed_statements(snapshot)
    # Equal values of different types, such as 1 and True, render differently, so the type is part of the key.
    typed = tuple(sorted((n, type(v).__name__, v) for n, v in values.items()))
    key = (pipe, caller.scope.shape(), caller.owner, typed)
    composed = cache.get(key)
    if composed is None:
        composed = cache.put(key, build.composer.request(build, pipe, caller))
    return composed


@per_snapshot
def _composed_statements(snapshot: Snapshot) -> LruCache[object, Composed]:
    """The remembered statements of endpoints."""
    return LruCache(COMPOSED_CACHE_ENTRIES, weigh=size_of)


def _renderer(values: Mapping[str, Any], zone: str) -> Render:
    """A function that renders templates with these values, which become bound parameters."""

    def render(template: Template, binder: Binder, columns: frozenset[str]) -> str:
        return template.render(values, binder, columns, zone)

    return render
