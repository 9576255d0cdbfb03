"""A query from start to first byte: grant → compose → bind → run, each stage timed.

Nothing a caller sends becomes part of a statement's text. An error before the first byte is never shown as the
engine told it: it may speak of rows that the caller does not own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import structlog

from engine.cache import LruCache
from engine.compiler.compose import Composed
from engine.compiler.scope import CHECKED_TENANT_PREFIX, FOREIGN_ROW, Scope
from engine.errors import (
    BAD_PARAMETER,
    BUSY,
    CANCELLED,
    ISOLATION,
    MISSING_PARAMETER,
    QUERY_FAILED,
    RESULT_LIMIT,
    TIMEOUT,
    TOO_COMPLEX,
    UNREACHABLE,
    RookeryError,
)
from engine.project.model import Limits
from engine.query import authorize
from engine.query.all_tenants import consistently
from engine.query.arguments import ignored_of, values_of
from engine.query.limits import InFlight, Rates
from engine.query.running import RunningQueries, Ticket
from engine.query.statistics import ClosingStatistics
from engine.sql.argument_bounds import SMALL_BLOCKS
from engine.template.environment import Binder, Template
from engine.template.parameters import coerce
from engine.tokens import Claims
from engine.warehouse.errors import EngineError
from engine.warehouse.port import Format, Statement, Stream, Value, limit_settings
from engine.warehouse.render import QUOTE_SETTING
from engine.workspace.workspace import Snapshot, Workspace

log = structlog.get_logger("rookery.query")

READ_AHEAD_BYTES = 256 * 1024
"""Bytes read before the status line: what fits is sent whole, with its length."""

Compose = Callable[[Scope], Composed]


@dataclass(slots=True)
class Timer:
    """Milliseconds per stage, for `Server-Timing`."""

    started: float = field(default_factory=time.perf_counter)
    stages: list[tuple[str, float]] = field(default_factory=list)

    def stage(self, name: str) -> None:
        now = time.perf_counter()
        self.stages.append((name, (now - self.started) * 1000))
        self.started = now

    def header(self) -> str:
        return ", ".join(f"{n};dur={ms:.2f}" for n, ms in self.stages)


class QueryResult:
    """A running answer: what was read ahead, whether that is all, and the rest. Must be closed."""

    def __init__(self, stream: Stream, work: Callable[[], AbstractContextManager[None]] = nullcontext) -> None:
        self._stream, self._leave, self._work = stream, _nothing, work
        self.head, self.complete = b"", False
        self.ignored: frozenset[str] = frozenset()
        try:
            with work():
                self._read_ahead()
        except BaseException:
            self.close()
            raise
        if self.complete:
            self.close()

    def _read_ahead(self) -> None:
        parts: list[bytes] = []
        size = 0
        while size < READ_AHEAD_BYTES:
            chunk = next(self._stream, None)
            if chunk is None:
                self.complete = True
                break
            parts.append(chunk)
            size += len(chunk)
        self.head = b"".join(parts)

    def when_closed(self, leave: Callable[[], None]) -> None:
        """Call back once, when the answer is closed; at once if it is already."""
        if self.complete:
            leave()
        else:
            self._leave = leave

    def next_chunk(self) -> bytes | None:
        """The next bytes, or None at the end."""
        with self._work():
            return next(self._stream, None)

    def close(self) -> None:
        """Give back the database handle and the place among running queries. Harmless when repeated."""
        leave, self._leave = self._leave, _nothing
        try:
            self._stream.close()
        finally:
            leave()


def _nothing() -> None:
    """What an answer calls back when nobody waits."""


class Queries:
    """Runs endpoint calls and ad-hoc SQL against the workspace's current snapshot."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self.running = InFlight()
        self.at_work = RunningQueries(workspace.warehouse.cancel, workspace.settings.stuck_seconds)
        self._rates = Rates()

    def endpoint(
        self,
        claims: Claims,
        pipe: str,
        given: Mapping[str, Any],
        format: Format,
        timer: Timer,
        eyes: str | None = None,
        ticket: Ticket | None = None,
    ) -> QueryResult:
        """Call an endpoint. Raises RK4xxx errors before the first byte."""

        def begin(snapshot: Snapshot, read: set[str]) -> QueryResult:
            granted = authorize.for_pipe(snapshot, self._workspace, claims, pipe, given, eyes)
            compiled = snapshot.build.pipes[pipe]
            values = values_of(self._workspace, snapshot, [pipe], given, granted.fixed)
            ignored = ignored_of(self._workspace, snapshot, [pipe], given, granted.fixed)
            quoted = self._quoted(given, compiled.quoted)
            self._rate(claims)

            def compose(scope: Scope) -> Composed:
                composed = _composed(snapshot, pipe, values, scope, self._workspace.zone)
                read.update(composed.relations)
                return replace(composed, quoted=quoted)

            asked = ticket or Ticket()
            answer = self._run(claims, granted.scope, compose, format, timer, pipe, compiled.limits, asked)
            answer.ignored = ignored
            return answer

        return self._consistently(claims, eyes, begin)

    def sql(
        self,
        claims: Claims,
        text: str,
        given: Mapping[str, Any],
        format: Format,
        timer: Timer,
        eyes: str | None = None,
        ticket: Ticket | None = None,
    ) -> QueryResult:
        """Run ad-hoc SQL over exactly what the token names."""

        def begin(snapshot: Snapshot, read: set[str]) -> QueryResult:
            granted = authorize.for_sql(snapshot, self._workspace, claims, given, eyes)
            build = snapshot.build
            quoted = self._quoted(given, None)
            ignored: frozenset[str] = frozenset()
            self._rate(claims)

            def compose(scope: Scope) -> Composed:
                nonlocal ignored
                # Only the pipes that the text reads have a say about parameters.
                reads = sorted(build.composer.verifier(text, granted.names).reads & set(build.pipes))
                ignored = ignored_of(self._workspace, snapshot, reads, given, granted.fixed)
                values = values_of(self._workspace, snapshot, reads, given, granted.fixed)
                composed = build.composer.adhoc(
                    build, text, granted.names, _renderer(values, self._workspace.zone), scope
                )
                read.update(composed.relations)
                return replace(composed, quoted=quoted)

            asked = ticket or Ticket()
            answer = self._run(claims, granted.scope, compose, format, timer, "query_api", Limits(), asked)
            answer.ignored = ignored
            return answer

        return self._consistently(claims, eyes, begin)

    def _consistently(
        self, claims: Claims, eyes: str | None, begin: Callable[[Snapshot, set[str]], QueryResult]
    ) -> QueryResult:
        """Begin an answer; for an admin who selects no tenant, so that no tenant is there in part."""
        if claims.is_admin and eyes is None:
            return consistently(self._workspace, begin)
        return begin(self._workspace.current, set())

    def _quoted(self, given: Mapping[str, Any], endpoint: bool | None) -> bool:
        """Whether large integers are text: by the request, else the endpoint, else the settings. Raises RK4006."""
        if QUOTE_SETTING in given:
            return bool(coerce(QUOTE_SETTING, "Bool", given[QUOTE_SETTING]))
        return self._workspace.settings.quote_64bit_integers if endpoint is None else endpoint

    def _rate(self, claims: Claims) -> None:
        if claims.rps:
            self._rates.count((claims.subject, claims.static_id, claims.tenant), claims.rps)

    def _run(
        self,
        claims: Claims,
        scope: Scope,
        compose: Compose,
        format: Format,
        timer: Timer,
        tag: str,
        limits: Limits,
        ticket: Ticket,
    ) -> QueryResult:
        most = self._workspace.settings.max_concurrent
        keys: list[tuple[Any, int]] = [(("token", claims.subject, claims.tenant), most)]
        if scope.tenant is not None:
            keys.append((("tenant", scope.tenant), most))
        if limits.max_concurrent:
            keys.append((("pipe", tag), limits.max_concurrent))
        # Composing may ask the database too, so it counts as running.
        places = self.running.enter(keys)
        try:
            statement = self._statement(claims, compose(scope), scope, limits, tag)
            timer.stage("compose")
            answer = self._first(claims, scope, statement, compose, format, limits, tag, ticket)
        except BaseException:
            self.running.leave(places)
            raise
        answer.when_closed(lambda: self.running.leave(places))
        timer.stage("query")
        return answer

    def _first(
        self,
        claims: Claims,
        scope: Scope,
        statement: Statement,
        compose: Compose,
        format: Format,
        limits: Limits,
        tag: str,
        ticket: Ticket,
    ) -> QueryResult:
        ticket.seconds = limits.max_seconds or self._workspace.settings.max_seconds
        try:
            return self._open(claims, statement, format, ticket)
        except RookeryError as exc:
            if exc.code in _OWN or (claims.is_admin and scope.tenant is None):
                raise _plain(exc, admin=claims.is_admin) from exc
            log.warning("query failed", pipe=tag, subject=claims.subject, error=exc)
            if exc.code is TIMEOUT or (scope.tenant is None and not scope.filters):
                raise _plain(exc, admin=False) from exc
        # The first run may have failed on what is not the caller's. Behind the barrier it cannot.
        fenced = replace(scope, barrier=True)
        try:
            return self._open(claims, self._statement(claims, compose(fenced), fenced, limits, tag), format, ticket)
        except RookeryError as exc:
            raise _plain(exc, admin=claims.is_admin) from exc

    def _open(self, claims: Claims, statement: Statement, format: Format, ticket: Ticket) -> QueryResult:
        if ticket.cancelled:
            raise RookeryError(CANCELLED, "the query was cancelled")
        stream: Stream = self._workspace.warehouse.stream(replace(statement, id=ticket.id), format)
        if format is Format.JSON:
            stream = ClosingStatistics(stream, whole_truth=claims.is_admin)
        return QueryResult(stream, partial(self.at_work.at_work, ticket))

    def _statement(self, claims: Claims, composed: Composed, scope: Scope, limits: Limits, tag: str) -> Statement:
        settings = self._workspace.settings
        bindings: dict[str, Value] = dict(composed.bindings)
        # The second check compares with the token's own tenant, however the scope came by its.
        witness = scope.tenant if claims.tenant is None else claims.tenant
        for name in composed.assembled.placeholders:
            bindings[name] = witness if name.startswith(CHECKED_TENANT_PREFIX) else scope.tenant
        return Statement(
            composed.sql,
            bindings,
            limit_settings(
                seconds=limits.max_seconds or settings.max_seconds,
                memory=limits.max_memory or settings.max_memory,
                total_memory=settings.total_memory,
                rows=limits.max_rows or settings.max_rows,
            )
            | (SMALL_BLOCKS if composed.assembled.slow else {}),
            tag,
            quoted=composed.quoted,
        )


def _composed(snapshot: Snapshot, pipe: str, values: Mapping[str, Any], scope: Scope, zone: str) -> Composed:
    """An endpoint's statement. It follows from these alone, and callers repeat themselves."""
    kept = all(type(v) in (str, int) for v in values.values()) and sum(len(str(v)) for v in values.values()) < 1000
    memory: LruCache[object, Composed] = snapshot.derived("composed", partial(LruCache, 1000))
    # Values that are equal but not alike, such as 1 and '1', render differently.
    key = (pipe, scope.shape(), tuple(sorted((n, type(v).__name__, v) for n, v in values.items()))) if kept else None
    known = memory.get(key) if kept else None
    if known is None:
        known = snapshot.build.composer.request(snapshot.build, pipe, _renderer(values, zone), scope)
        if kept:
            memory.put(key, known)
    return known


def _renderer(values: Mapping[str, Any], zone: str) -> Any:
    def render(template: Template, binder: Binder, columns: frozenset[str]) -> str:
        return template.render(values, binder, columns, zone)

    return render


_OWN = frozenset({BUSY, UNREACHABLE, BAD_PARAMETER, MISSING_PARAMETER, CANCELLED})
_SAFE_TEXTS: Mapping[int, str] = {
    6: "a value could not be converted to the wanted type",
    27: "a value could not be parsed",
    36: "an argument has a value that the function does not take",
    38: "a date could not be parsed",
    41: "a date or time could not be parsed",
    42: "a function has the wrong number of arguments",
    43: "a function has an argument of a type that it does not take",
    44: "an argument must be a constant or of another type",
    46: "a function does not exist",
    47: "an identifier is not a column here",
    53: "two types do not fit each other",
    60: "a table is not there",
    72: "a number could not be parsed",
    153: "division by zero",
    206: "a subquery in a join needs an alias",
    215: "a column is neither aggregated nor in GROUP BY",
    386: "types have no common supertype",
    395: "the query raised an error itself",
    457: "a parameter has a value of the wrong type",
}


def _is_foreign_row(exc: EngineError) -> bool:
    """Whether the second check of the tenant failed. Other errors may quote its text as part of the statement."""
    raised = (exc.detail or exc.message).partition("DB::Exception: ")
    return exc.engine_code == 395 and (raised[2] or raised[0]).startswith(FOREIGN_ROW)


def _plain(exc: RookeryError, *, admin: bool) -> RookeryError:
    """An error that a caller may see: an admin the engine's own text, anybody else ours, chosen by the code."""
    if isinstance(exc, EngineError) and _is_foreign_row(exc):
        log.critical("a row of another tenant was held back", detail=exc.detail or exc.message)
        return RookeryError(ISOLATION, "the query was stopped: it would have read rows of another tenant")
    if admin or not isinstance(exc, EngineError):
        return exc
    if exc.code is TIMEOUT:
        return RookeryError(TIMEOUT, "the query took too long", hint="ask for less, or have its limit raised")
    if exc.code is RESULT_LIMIT:
        return RookeryError(RESULT_LIMIT, "the query exceeded its limit of rows or memory", hint="ask for less")
    if exc.code is TOO_COMPLEX:
        return RookeryError(TOO_COMPLEX, "the query is too complex to be planned", hint="ask for less at once")
    if exc.code in _OWN:
        return exc
    text = _SAFE_TEXTS.get(exc.engine_code or 0, "the query failed")
    return RookeryError(QUERY_FAILED, text, detail=exc.detail)
