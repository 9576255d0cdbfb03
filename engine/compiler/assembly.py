"""Assembles one statement from verified SQL, as WITH queries in the order in which they read each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from engine.compiler.pipes import CompiledPipe
from engine.compiler.scope import PLAIN, Bound, Reading, Relation
from engine.errors import CYCLE, SQL_REFUSED, RookeryError
from engine.schema import quote
from engine.sql import shape
from engine.sql.verify import Verified

LAST_NODE_ALIAS = "_rk_last"
"""Name of the WITH query for the last part of a statement."""

Bind = Callable[[Relation, Reading], Bound]
"""Returns the SQL that replaces a datasource's name."""
Texts = Mapping[str, tuple[tuple[str, Verified], ...]]
"""Pipe → its verified nodes in order, as (node name, text)."""


class Catalogue(Protocol):
    """The names that statements can use."""

    @property
    def relations(self) -> Mapping[str, Relation]: ...
    @property
    def pipes(self) -> Mapping[str, CompiledPipe]: ...


@dataclass(frozen=True, slots=True)
class StatementTexts:
    """The verified texts of one statement."""

    pipe: str
    """The pipe whose result the statement returns."""
    by_pipe: Texts
    """The texts of that pipe, and of the pipes that it reads directly or through others."""


@dataclass(frozen=True, slots=True)
class ViewBranch:
    """The SQL that a view selects instead of its pipe's last node: one branch of that node's UNION ALL."""

    sql: str
    columns: tuple[str, ...]
    """The columns of the branch that the view's target has."""


@dataclass(frozen=True, slots=True)
class Assembled:
    """The text of a statement."""

    sql: str
    placeholders: Mapping[str, str]
    """Placeholders of the tenant in `sql`: name → type."""
    relations: frozenset[str]
    """The datasources that it reads."""
    slow: bool = False
    """Whether it calls functions that may take a long time for a single row."""


def assemble(
    catalogue: Catalogue,
    texts: StatementTexts,
    bind: Bind,
    *,
    branch: ViewBranch | None = None,
    around: Verified | None = None,
) -> Assembled:
    """Assemble one statement from verified SQL: a WITH query for each name that is read, then the pipe's last node.

    A view's `branch` replaces the last node. `around` is the ad-hoc SQL that reads the statement: like the pipes, it
    decides which columns a relation lists.
    """
    assembly = _Assembly(catalogue, texts.by_pipe, bind, _readings(catalogue, texts.by_pipe, around))
    *before, (_, final) = texts.by_pipe[texts.pipe]
    assembly.add_reads(texts.by_pipe[texts.pipe])
    assembly.ctes.update((n, t.canonical) for n, t in before)
    ctes = assembly.ctes
    sql = with_last(ctes, final) if branch is None else _with_all(ctes, branch.sql, branch.columns)
    slow = any(text.slow for nodes in texts.by_pipe.values() for _, text in nodes)
    return Assembled(sql, assembly.placeholders, frozenset(assembly.relations), slow)


@dataclass(slots=True)
class _Assembly:
    """One statement while it is assembled."""

    catalogue: Catalogue
    texts: Texts
    bind: Bind
    readings: Mapping[str, Reading]
    ctes: dict[str, str] = field(default_factory=dict)
    """The WITH queries, in order. A WITH query sees only earlier ones, so each name is added after what it reads."""
    placeholders: dict[str, str] = field(default_factory=dict)
    """Placeholders of the tenant."""
    relations: set[str] = field(default_factory=set)
    """The datasources that are read."""
    entered: set[str] = field(default_factory=set)
    """Pipes that have been added or are being added."""

    def add_reads(self, nodes: Iterable[tuple[str, Verified]]) -> None:
        """Add the names that a pipe's nodes read outside the pipe."""
        nodes = tuple(nodes)
        names = {n for n, _ in nodes}
        for _, text in nodes:
            # Sorted, so that the same SQL always becomes the same statement.
            for name in sorted(text.reads - names):
                self._add(name)

    def _add(self, name: str) -> None:
        """Add a datasource or a pipe, unless it has been added."""
        if name in self.ctes:
            return
        if name in self.catalogue.relations:
            bound = self.bind(self.catalogue.relations[name], self.readings.get(name, PLAIN))
            self.ctes[name] = bound.sql
            self.relations.add(name)
            self.placeholders.update(bound.placeholders)
            return
        # Pipes in files cannot form a cycle, but a template may choose a table by a parameter.
        if name in self.entered:
            raise RookeryError(CYCLE, f"with these parameters, `{name}` reads itself")
        self.entered.add(name)
        self.add_reads(self.texts[name])
        *before, (_, final) = self.texts[name]
        # Nodes of another pipe stay inside its own WITH query, because two pipes may have nodes of the same name.
        self.ctes[name] = with_last({n: t.canonical for n, t in before}, final)


def _readings(catalogue: Catalogue, texts: Texts, around: Verified | None) -> dict[str, Reading]:
    """How each name is read. A statement binds a name once, so all its parts must read it in the same way."""
    readings: dict[str, Reading] = {}
    all_texts = [v for t in texts.values() for _, v in t]
    passed = shape.passed(v.uses for v in (*all_texts, *([around] if around else ())))
    for text in all_texts:
        for name in text.reads:
            reading = Reading(name in text.final, text.sample.get(name), text.names, passed)
            known = readings.setdefault(name, reading)
            if (known.final, known.sample) != (reading.final, reading.sample):
                raise RookeryError(
                    SQL_REFUSED,
                    f"`{name}` is read with FINAL or SAMPLE in one place and differently in another",
                    hint="read it in the same way everywhere, or set `final: true` on the datasource",
                )
            if (reading.final or reading.sample) and name not in catalogue.relations:
                raise RookeryError(SQL_REFUSED, f"FINAL or SAMPLE on `{name}`, which is not a datasource")
            readings[name] = replace(known, names=_union(known.names, reading.names))
    return readings


def _union(first: frozenset[str] | None, second: frozenset[str] | None) -> frozenset[str] | None:
    return None if first is None or second is None else first | second


def with_last(ctes: Mapping[str, str], last: Verified) -> str:
    """A statement that ends with verified SQL. A plain SELECT does not need to be a WITH query, which saves time."""
    if not last.plain:
        return _with_all(ctes, last.canonical)
    items = ",\n".join(f"{quote(n)} AS (\n{t}\n)" for n, t in ctes.items())
    return f"WITH {items}\n{last.canonical}" if items else last.canonical


def _with_all(ctes: Mapping[str, str], last: str, columns: tuple[str, ...] = ()) -> str:
    """A statement in which all parts are WITH queries, including the last one."""
    items = [f"{quote(n)} AS (\n{t}\n)" for n, t in ctes.items()]
    items.append(f"{quote(LAST_NODE_ALIAS)} AS (\n{last}\n)")
    selected = ", ".join(quote(c) for c in columns) or "*"
    return "WITH " + ",\n".join(items) + f"\nSELECT {selected} FROM {quote(LAST_NODE_ALIAS)}"
