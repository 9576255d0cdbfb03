"""Composes one statement from a compiled pipe: renders the templates, verifies the SQL, binds every name, and
assembles.

A statement never contains a value from the request. So the same SQL occurs again and again, and verified SQL and
assembled statements are cached.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from copy import copy
from dataclasses import dataclass
from typing import Literal

from engine.cache import LruCache, size_of
from engine.compiler.assembly import Assembled, Bind, Catalogue, StatementTexts, assemble, with_last
from engine.compiler.pipes import CompiledPipe, check_used
from engine.compiler.scope import Bound, Reading, Relation, Scope
from engine.errors import BRANCH, FUNCTION_REFUSED, ISOLATION, TABLE_REFUSED, RookeryError
from engine.schema import nest_database
from engine.sql import shape
from engine.sql.cached_parser import CachedParser
from engine.sql.expanded_size import Extent, check_extent, extents_of, relation_extent
from engine.sql.functions import WITHDRAWN
from engine.sql.tree import Node as TreeNode
from engine.sql.verify import Parser, Verification, Verified, verify
from engine.template.environment import Binder, Template
from engine.template.parameters import Value

Render = Callable[[Template, Binder, frozenset[str]], str]
"""Renders a template. The last argument has the columns that identifiers in it may name."""
SizeCheck = Literal["all", "varying", "none"]
"""Which statements are checked for their expanded size: all, only those whose SQL depends on the request, or none."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller for whom a statement is composed."""

    render: Render
    """Renders templates with the caller's parameters."""
    scope: Scope
    """The relations that the caller may read."""
    owner: Hashable = None
    """Who shares cached results of texts and values that the caller sent; None if everyone may."""


@dataclass(frozen=True, slots=True)
class Composed:
    """An assembled statement with the values of its parameters."""

    assembled: Assembled
    """The statement, which other requests with the same SQL share."""
    bindings: Mapping[str, Value]
    """Placeholder → value, without those of the tenant."""
    quoted: bool = False
    """Whether JSON results have large integers as strings."""

    @property
    def sql(self) -> str:
        return self.assembled.sql

    @property
    def relations(self) -> frozenset[str]:
        return self.assembled.relations


_ESCAPES = ("\\", "x'", "X'", "b'", "B'")
"""Parts of SQL texts that may spell a name without containing it."""
_MAX_SEARCHED = 8_192
"""Characters of a text in which names are searched: the search must cost less than the verification."""


def _mentioned(sql: str, bound: frozenset[str]) -> frozenset[str]:
    """The bound names on which the verification of a text can depend: those that occur anywhere in it.

    So a push that adds a name verifies only the texts that mention it.
    """
    if len(sql) > _MAX_SEARCHED or any(escape in sql for escape in _ESCAPES):
        return bound
    return frozenset(name for name in bound if name in sql)


def _verified_size(key: tuple[object, ...], text: Verified) -> int:
    """The size of a verified text, without the names that it may read: all texts of a build share these."""
    sql, _bound, *types = key
    return size_of(sql, types, text)


class Verifier:
    """Verifies authors' SQL with the engine's parser and caches the results. All threads share it."""

    def __init__(self, parser: Parser) -> None:
        self.parser = CachedParser(parser)
        self._verified: LruCache[tuple[object, ...], Verified] = LruCache(weigh=_verified_size)
        self._trees: LruCache[str, TreeNode] = LruCache(weigh=size_of)
        self._withdrawn: frozenset[str] = frozenset()

    def of_deployed(self) -> Verifier:
        """A verifier with the same caches for files that are deployed. They may call functions that were allowed when
        they were pushed: otherwise a newer version would not start.
        """
        other = copy(self)
        other._withdrawn = WITHDRAWN
        return other

    def tree(self, sql: str) -> TreeNode:
        """The syntax tree of a piece of SQL. Callers share it and must not change it."""
        cached = self._trees.get(sql)
        return cached if cached is not None else self._trees.put(sql, self.parser.parse(sql)[0])

    def __call__(
        self, sql: str, bound: frozenset[str], placeholders: Mapping[str, str] | None = None, *, view: bool = False
    ) -> Verified:
        types = dict(placeholders or {})
        key = (sql, _mentioned(sql, bound), tuple(sorted(types.items())), view)
        cached = self._verified.get(key)
        if cached is not None:
            return cached
        try:
            text = verify(sql, self.parser, bound=bound, placeholders=types, view=view)
        except RookeryError as exc:
            if exc.code is not FUNCTION_REFUSED or not self._withdrawn:
                raise
            # Not cached: only those that are deployed may use the result.
            return Verification(self.parser, bound, types, self._withdrawn).verify(sql, view=view)
        return self._verified.put(key, text)

    def sent(self, sql: str, bound: frozenset[str], owner: Hashable) -> Verified:
        """Verify SQL that a caller sent. Only the same owner gets its cached result.

        Otherwise the time until the response would show which texts others have sent, with the values in them.
        """
        key = (sql, _mentioned(sql, bound), owner)
        cached = self._verified.get(key)
        if cached is not None:
            return cached
        verification = Verification(self.parser.uncached, bound, {}, is_sent=True)
        return self._verified.put(key, verification.verify(sql, view=False))


class Composer:
    """Composes statements of one build."""

    def __init__(self, verifier: Verifier) -> None:
        self.verifier = verifier
        self._assembled: LruCache[tuple[object, ...], Assembled] = LruCache(weigh=size_of)

    def request(
        self,
        catalogue: Catalogue,
        pipe: str,
        caller: Caller,
        *,
        upto: str | None = None,
        size_check: SizeCheck = "varying",
    ) -> Composed:
        """The statement of a pipe for one request: its published node, or the node `upto`.

        Raises RK4040 for a statement that is too complex. By default this is only checked for statements whose SQL
        depends on the request: the others were checked when they were pushed.
        """
        binder = Binder()
        texts = self._texts(catalogue, pipe, caller.render, binder, upto)
        # The binder numbers placeholders in the order of rendering. So requests with equal SQL have equal
        # placeholders, and can share the assembled statement although their values differ.
        identities = tuple((p, tuple(v.identity for _, v in t)) for p, t in texts.by_pipe.items())
        key = (pipe, upto, caller.scope.shape(), identities)
        assembled = self._assembled.get(key)
        if assembled is None:
            statement = assemble(catalogue, texts, _binding(caller.scope))
            # SQL that does not depend on the request was measured when it was pushed.
            varies = any(catalogue.pipes[n].varies for n in texts.by_pipe)
            if size_check == "all" or (size_check == "varying" and varies):
                check_extent(extents_of(catalogue.relations, texts.by_pipe)[pipe], f"the statement of `{pipe}`")
            assembled = self._assembled.put(key, statement)
        return Composed(assembled, binder.bindings)

    def adhoc(self, catalogue: Catalogue, sql: str, allowed: frozenset[str], caller: Caller) -> Composed:
        """The statement for an ad-hoc SELECT over allowed names.

        Each pipe that it reads becomes a `view(…)` with its own WITH queries, which the ad-hoc SQL cannot reference.
        """
        text = self.verifier.sent(sql, allowed, caller.owner)
        binder, bind = Binder(), _binding(caller.scope)
        ctes: dict[str, str] = {}
        placeholders: dict[str, str] = {}
        relations: set[str] = set()
        passed = shape.passed([text.uses])
        extents: dict[str, Extent] = {}
        slow = text.slow
        # Sorted, so that the same query always becomes the same text.
        for name in sorted(text.reads):
            if name in catalogue.relations:
                extents[name] = relation_extent(catalogue.relations[name])
                how = Reading(name in text.final, text.sample.get(name), text.names, passed)
                bound = bind(catalogue.relations[name], how)
                ctes[name] = bound.sql
                placeholders.update(bound.placeholders)
                relations.add(name)
                continue
            texts = self._texts(catalogue, name, caller.render, binder, None)
            inner = assemble(catalogue, texts, bind, around=text)
            extents[name] = extents_of(catalogue.relations, texts.by_pipe)[name]
            ctes[name] = f"SELECT * FROM view({inner.sql})"
            placeholders.update(inner.placeholders)
            relations |= inner.relations
            slow = slow or inner.slow
        # Ad-hoc SQL is never pushed, so it is always measured.
        check_extent(text.extent.evaluated(extents), "the query")
        statement = Assembled(with_last(ctes, text), placeholders, frozenset(relations), slow)
        return Composed(statement, binder.bindings)

    def static_texts(self, catalogue: Catalogue, pipe: str) -> StatementTexts:
        """The SQL of a materialized pipe, which does not depend on requests."""
        return self._texts(catalogue, pipe, _no_template, Binder(), None)

    def _texts(
        self, catalogue: Catalogue, pipe: str, render: Render, binder: Binder, upto: str | None
    ) -> StatementTexts:
        """Render and verify the nodes that a statement needs from a pipe and from the pipes that it reads.

        The same binder collects the values of all templates, so that their placeholders get different names.
        """
        texts: dict[str, tuple[tuple[str, Verified], ...]] = {}
        pending = [pipe]
        while pending:
            name = pending.pop(0)
            if name in texts:
                continue
            # `upto` is a node of the first pipe. The others are read as a whole.
            texts[name] = self._rendered(catalogue.pipes[name], render, binder, upto if name == pipe else None)
            pending.extend(sorted(r for _, t in texts[name] for r in t.reads if r in catalogue.pipes))
        return StatementTexts(pipe, texts)

    def _rendered(
        self, compiled: CompiledPipe, render: Render, binder: Binder, upto: str | None
    ) -> tuple[tuple[str, Verified], ...]:
        """The verified nodes that this request needs.

        They are found from the last node backwards, because the rendered SQL of a node shows which earlier nodes it
        reads.
        """
        needed, rendered = {upto or compiled.published}, []
        for node in reversed(compiled.nodes):
            if node.name not in needed:
                continue
            text = node.static
            if text is None:
                # The binder is shared by all nodes. Only placeholders that this node adds must be in its text.
                before = frozenset(binder.types)
                sql = render(node.template, binder, compiled.columns)
                try:
                    text = self.verifier(sql, node.bound, binder.types)
                except RookeryError as exc:
                    raise _in_request(exc, compiled.name, node.name) from exc
                check_used(text, frozenset(binder.types) - before)
            needed |= text.reads
            rendered.append((node.name, text))
        return tuple(reversed(rendered))


def _in_request(exc: RookeryError, pipe: str, node: str) -> RookeryError:
    """The error for a caller whose parameters select a table that does not exist."""
    if exc.code is not TABLE_REFUSED:
        return exc
    return RookeryError(
        BRANCH,
        f"with these parameters, node `{node}` of `{pipe}` reads a table that does not exist: {exc.message}",
        hint="send other values; the author of the pipe sees a warning in `rookery check`",
    )


def _no_template(template: Template, binder: Binder, columns: frozenset[str]) -> str:
    return template.render({}, binder, columns)


def _binding(scope: Scope) -> Bind:
    """Bind names by the scope, and check that each result is limited to the tenant."""

    def bind(relation: Relation, how: Reading) -> Bound:
        bound = scope.bind(relation, how)
        _refuse_unchecked_rows(scope, relation, bound)
        return bound

    return bind


def _refuse_unchecked_rows(scope: Scope, relation: Relation, bound: Bound) -> None:
    """Refuse to read tenants' rows that are neither in the tenant's nest nor checked a second time. Raises RK6017.

    This check is independent of how the scope decided, so that a fault in the scope becomes an error.
    """
    if relation.tenant is None or (scope.unrestricted and scope.tenant is None) or bound.witnessed:
        return
    if scope.tenant is not None and bound.source.database == nest_database(scope.workspace, scope.tenant):
        return
    raise RookeryError(ISOLATION, f"`{relation.name}` would be read without the tenant")
