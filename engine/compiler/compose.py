"""From a compiled pipe to one statement: render, verify, bind every name, assemble.

No value of a request is ever part of a statement's text; texts therefore repeat, and what was verified or assembled
once is remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from engine.cache import LruCache
from engine.compiler.pipes import CompiledPipe, check_used
from engine.compiler.scope import PLAIN, Bound, Reading, Relation, Scope
from engine.errors import BRANCH, CYCLE, ISOLATION, SQL_REFUSED, TABLE_REFUSED, RookeryError
from engine.schema import nest_database, quote
from engine.sql import shape
from engine.sql.cached_parser import CachedParser
from engine.sql.expanded_size import Extent, check_extent, extents_of, relation_extent
from engine.sql.verify import Parser, Verified, verify
from engine.template.environment import Binder, Template
from engine.template.parameters import Value

LAST_NODE_ALIAS = "_rk_last"


Bind = Callable[[Relation, Reading], Bound]
Render = Callable[[Template, Binder, frozenset[str]], str]
Texts = Mapping[str, tuple[tuple[str, Verified], ...]]
"""Verified node texts by pipe, in order: (node name, text)."""
Bounded = Literal["all", "varying", "none"]


class Catalogue(Protocol):
    """The names that statements can use."""

    @property
    def relations(self) -> Mapping[str, Relation]: ...
    @property
    def pipes(self) -> Mapping[str, CompiledPipe]: ...


@dataclass(frozen=True, slots=True)
class Assembled:
    """A statement's text, the tenant placeholders in it by name with type, and the datasources it reads.

    `slow` says that it calls functions that may take long for one row.
    """

    sql: str
    placeholders: Mapping[str, str]
    relations: frozenset[str]
    slow: bool = False


@dataclass(frozen=True, slots=True)
class Composed:
    """An assembled statement with its bindings, but for the tenant's. `quoted`: JSON has large integers as text."""

    assembled: Assembled
    bindings: Mapping[str, Value]
    quoted: bool = False

    @property
    def sql(self) -> str:
        return self.assembled.sql

    @property
    def relations(self) -> frozenset[str]:
        return self.assembled.relations


class Verifier:
    """Verifies author texts with the engine's parser and remembers the outcome by text."""

    def __init__(self, parser: Parser) -> None:
        self.parser = CachedParser(parser)
        self._known: LruCache[tuple[object, ...], Verified] = LruCache()
        self._trees: LruCache[str, Mapping[str, Any]] = LruCache()

    def tree(self, sql: str) -> Mapping[str, Any]:
        """The syntax tree of a text."""
        known = self._trees.get(sql)
        return known if known is not None else self._trees.put(sql, self.parser.parse(sql)[0])

    def __call__(
        self, sql: str, bound: frozenset[str], placeholders: Mapping[str, str] | None = None, *, view: bool = False
    ) -> Verified:
        given = dict(placeholders or {})
        key = (sql, bound, tuple(sorted(given.items())), view)
        known = self._known.get(key)
        if known is not None:
            return known
        return self._known.put(key, verify(sql, self.parser, bound=bound, placeholders=given, view=view))


class Composer:
    """Composes statements of one build."""

    def __init__(self, verifier: Verifier) -> None:
        self.verifier = verifier
        self._assembled: LruCache[tuple[object, ...], Assembled] = LruCache()

    def request(
        self,
        catalogue: Catalogue,
        pipe: str,
        render: Render,
        scope: Scope,
        *,
        upto: str | None = None,
        bounded: Bounded = "varying",
    ) -> Composed:
        """The statement of a pipe for one request: its published node, or the node `upto`.

        Raises RK4040 for one that is too complex. `bounded` says whether that is asked of all pipes, only of those
        whose text depends on the request (others were checked when they were pushed), or of none.
        """
        binder = Binder()
        texts = self._texts(catalogue, pipe, render, binder, upto)
        key = (pipe, upto, scope.shape(), tuple((p, tuple(v.identity for _, v in t)) for p, t in texts.items()))
        known = self._assembled.get(key)
        if known is None:
            statement = assemble(catalogue, pipe, texts, _binding(scope))
            if bounded == "all" or (bounded == "varying" and any(catalogue.pipes[n].varies for n in texts)):
                check_extent(extents_of(catalogue.relations, texts)[pipe], f"the statement of `{pipe}`")
            known = self._assembled.put(key, statement)
        return Composed(known, binder.bindings)

    def adhoc(
        self, catalogue: Catalogue, sql: str, allowed: frozenset[str], render: Render, scope: Scope
    ) -> Composed:
        """An ad-hoc SELECT over allowed names. Pipes stand in a context of their own, which the text cannot reach."""
        text = self.verifier(sql, allowed)
        binder, bind = Binder(), _binding(scope)
        ctes: dict[str, str] = {}
        placeholders: dict[str, str] = {}
        relations: set[str] = set()
        passed = shape.passed([text.uses])
        extents: dict[str, Extent] = {}
        slow = text.slow
        for name in sorted(text.reads):
            if name in catalogue.relations:
                extents[name] = relation_extent(catalogue.relations[name])
                how = Reading(name in text.final, text.sample.get(name), text.names, passed)
                bound = bind(catalogue.relations[name], how)
                ctes[name] = bound.sql
                placeholders.update(bound.placeholders)
                relations.add(name)
                continue
            texts = self._texts(catalogue, name, render, binder, None)
            inner = assemble(catalogue, name, texts, bind, around=text)
            extents[name] = extents_of(catalogue.relations, texts)[name]
            ctes[name] = f"SELECT * FROM view({inner.sql})"
            placeholders.update(inner.placeholders)
            relations |= inner.relations
            slow = slow or inner.slow
        check_extent(text.extent.of(extents), "the query")
        statement = Assembled(_ended(ctes, text), placeholders, frozenset(relations), slow)
        return Composed(statement, binder.bindings)

    def static_texts(self, catalogue: Catalogue, pipe: str) -> Texts:
        """The texts of a materialized pipe, which never vary."""
        return self._texts(catalogue, pipe, _no_template, Binder(), None)

    def _texts(self, catalogue: Catalogue, pipe: str, render: Render, binder: Binder, upto: str | None) -> Texts:
        texts: dict[str, tuple[tuple[str, Verified], ...]] = {}
        pending = [pipe]
        while pending:
            name = pending.pop(0)
            if name in texts:
                continue
            texts[name] = self._rendered(catalogue.pipes[name], render, binder, upto if name == pipe else None)
            pending.extend(sorted(r for _, t in texts[name] for r in t.reads if r in catalogue.pipes))
        return texts

    def _rendered(
        self, compiled: CompiledPipe, render: Render, binder: Binder, upto: str | None
    ) -> tuple[tuple[str, Verified], ...]:
        """The nodes that this very request needs: which ones, each text says itself, from the last node backwards."""
        wanted, found = {upto or compiled.published}, []
        for node in reversed(compiled.nodes):
            if node.name not in wanted:
                continue
            text = node.static
            if text is None:
                before = frozenset(binder.types)
                sql = render(node.template, binder, compiled.columns)
                try:
                    text = self.verifier(sql, node.bound, binder.types)
                except RookeryError as exc:
                    raise _in_request(exc, compiled.name, node.name) from exc
                check_used(text, frozenset(binder.types) - before)
            wanted |= text.reads
            found.append((node.name, text))
        return tuple(reversed(found))


def assemble(
    catalogue: Catalogue,
    pipe: str,
    texts: Texts,
    bind: Bind,
    *,
    last: str | None = None,
    columns: tuple[str, ...] = (),
    around: Verified | None = None,
) -> Assembled:
    """One statement from verified texts.

    `last` replaces the text of the pipe's last node (a view's branch), `columns` selects from it (all by default).
    `around` is the text that reads the statement.
    """
    ctes: dict[str, str] = {}
    placeholders: dict[str, str] = {}
    relations: set[str] = set()
    entered: set[str] = set()
    readings = _readings(catalogue, texts, around)

    def require(name: str) -> None:
        if name in ctes:
            return
        if name in catalogue.relations:
            bound = bind(catalogue.relations[name], readings.get(name, PLAIN))
            ctes[name] = bound.sql
            relations.add(name)
            placeholders.update(bound.placeholders)
            return
        if name in entered:
            raise RookeryError(CYCLE, f"with these parameters, `{name}` reads itself")
        entered.add(name)
        nodes = texts[name]
        require_all(nodes)
        *before, (_, final) = nodes
        ctes[name] = _ended({n: t.canonical for n, t in before}, final)

    def require_all(nodes: tuple[tuple[str, Verified], ...]) -> None:
        own = {n for n, _ in nodes}
        for _, text in nodes:
            for read in sorted(text.reads - own):
                require(read)

    require_all(texts[pipe])
    *before, (_, final) = texts[pipe]
    ctes.update((n, t.canonical) for n, t in before)
    sql = _ended(ctes, final) if last is None else _with(ctes, last, columns)
    slow = any(text.slow for nodes in texts.values() for _, text in nodes)
    return Assembled(sql, placeholders, frozenset(relations), slow)


def _readings(catalogue: Catalogue, texts: Texts, around: Verified | None) -> dict[str, Reading]:
    """How each name is read; a statement binds a name once, so it must be read in one way throughout."""
    found: dict[str, Reading] = {}
    every = [v for t in texts.values() for _, v in t]
    passed = shape.passed(v.uses for v in (*every, *([around] if around else ())))
    for text in every:
        for name in text.reads:
            reading = Reading(name in text.final, text.sample.get(name), text.names, passed)
            known = found.setdefault(name, reading)
            if (known.final, known.sample) != (reading.final, reading.sample):
                raise RookeryError(
                    SQL_REFUSED,
                    f"`{name}` is read with FINAL or SAMPLE in one place and differently in another",
                    hint="read it in one way everywhere, or set `final: true` on the datasource",
                )
            if (reading.final or reading.sample) and name not in catalogue.relations:
                raise RookeryError(SQL_REFUSED, f"FINAL or SAMPLE on `{name}`, which is not a datasource")
            found[name] = replace(known, names=_either(known.names, reading.names))
    return found


def _either(one: frozenset[str] | None, other: frozenset[str] | None) -> frozenset[str] | None:
    return None if one is None or other is None else one | other


def _ended(ctes: Mapping[str, str], last: Verified) -> str:
    """A statement that ends with a verified text: as it stands where it is one SELECT, for every layer costs time."""
    if not last.plain:
        return _with(ctes, last.canonical)
    items = ",\n".join(f"{quote(n)} AS (\n{t}\n)" for n, t in ctes.items())
    return f"WITH {items}\n{last.canonical}" if items else last.canonical


def _with(ctes: Mapping[str, str], last: str, columns: tuple[str, ...] = ()) -> str:
    """A statement whose names are all common table expressions; the last text stands as a relation of its own."""
    items = [f"{quote(n)} AS (\n{t}\n)" for n, t in ctes.items()]
    items.append(f"{quote(LAST_NODE_ALIAS)} AS (\n{last}\n)")
    selected = ", ".join(quote(c) for c in columns) or "*"
    return "WITH " + ",\n".join(items) + f"\nSELECT {selected} FROM {quote(LAST_NODE_ALIAS)}"


def _in_request(exc: RookeryError, pipe: str, node: str) -> RookeryError:
    """What a caller reads when these parameters choose a table that does not exist."""
    if exc.code is not TABLE_REFUSED:
        return exc
    return RookeryError(
        BRANCH,
        f"with these parameters, node `{node}` of `{pipe}` reads what does not exist: {exc.message}",
        hint="send other values; the author of the pipe sees a warning in `rookery check`",
    )


def _no_template(template: Template, binder: Binder, columns: frozenset[str]) -> str:
    return template.render({}, binder, columns)


def _binding(scope: Scope) -> Bind:
    def bind(relation: Relation, how: Reading) -> Bound:
        bound = scope.bind(relation, how)
        _hold_to_tenant(scope, relation, bound)
        return bound

    return bind


def _hold_to_tenant(scope: Scope, relation: Relation, bound: Bound) -> None:
    """Refuse tenants' rows that neither come from the tenant's nest nor are checked a second time. Raises RK6017.

    This does not ask the scope how it decided, so that a fault there becomes an error.
    """
    if relation.tenant is None or (scope.unrestricted and scope.tenant is None) or bound.witnessed:
        return
    if scope.tenant is not None and bound.source.database == nest_database(scope.workspace, scope.tenant):
        return
    raise RookeryError(ISOLATION, f"`{relation.name}` would be read without the tenant")
