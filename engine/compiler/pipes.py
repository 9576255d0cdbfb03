"""Compiles one pipe: its templates, verified SQL and parameters, the names that it reads, and its target."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from engine.compiler.error_location import refused_name
from engine.errors import (
    BAD_VALUE,
    BRANCH,
    PARAMETER_CLASH,
    SQL_SYNTAX,
    TABLE_REFUSED,
    TEMPLATE,
    UNKNOWN_TABLE,
    VIEW_SHAPE,
    Collector,
    Place,
    RookeryError,
)
from engine.project.datasource import Engine
from engine.project.pipe import Limits, Node, Parameter, Pipe
from engine.sql.tenant_lineage import names_of_values
from engine.sql.tree import Node as TreeNode
from engine.sql.verify import Verified
from engine.template.dry_run import Sample, samples
from engine.template.environment import Template, compile_template
from engine.template.parameters import ParameterSpec

_AFTER_FROM = re.compile(r"\b(?:FROM|JOIN|IN)\s*+\(?\s*+`?([A-Za-z_][A-Za-z0-9_]*)`?", re.IGNORECASE)
_STRINGS = re.compile(r"'(?:[^'\\]|\\(?:.|\Z))*+(?:'|\Z)", re.DOTALL)
MAX_NODES = 1_000
"""Maximum number of nodes of a pipe."""


class TextVerifier(Protocol):
    """Verifies authors' SQL and returns its syntax trees (`compose.Verifier`)."""

    def __call__(
        self, sql: str, bound: frozenset[str], placeholders: Mapping[str, str] | None = None, *, view: bool = False
    ) -> Verified: ...

    def tree(self, sql: str) -> TreeNode: ...


@dataclass(frozen=True, slots=True)
class CompiledNode:
    """A node of a compiled pipe."""

    name: str
    place: Place
    """Where its SQL begins."""
    template: Template
    bound: frozenset[str]
    """The names that it may use as tables."""
    static: Verified | None
    """Its verified SQL, if that does not depend on parameters."""
    reads: frozenset[str]
    """The bound names that it reads, in any branch of its template."""
    aliases: frozenset[str] = frozenset()
    """The names that it gives to values; only collected if a template of the pipe selects columns by parameter."""
    warnings: tuple[RookeryError, ...] = ()


@dataclass(frozen=True, slots=True)
class MaterializedTarget:
    """Where a materialized pipe stores its result. `columns` and `triggers` are set by the analysis."""

    name: str
    per_tenant: bool
    drop_tenant_column: bool
    engine: Engine | None
    """The engine of a target without a file of its own."""
    columns: tuple[str, ...] = ()
    """The target's columns that the pipe outputs."""
    triggers: tuple[str, ...] = ()
    """For each branch of the view, the datasource whose inserts fire it."""
    branches: tuple[str, ...] = ()
    """The SQL of the views, if it differs from that of the published node."""


@dataclass(frozen=True, slots=True)
class CompiledPipe:
    """A compiled pipe."""

    name: str
    kind: str
    """`endpoint`, `materialized` or `standard`."""
    description: str
    place: Place
    nodes: tuple[CompiledNode, ...]
    """All nodes in the order of the file, including those that the published one does not need."""
    published: str
    """The node that is served or materialized."""
    parameters: tuple[ParameterSpec, ...]
    """Declared parameters, then the others that the templates use."""
    limits: Limits
    target: MaterializedTarget | None = None
    columns: frozenset[str] = frozenset()
    """The columns that its templates may name."""
    datasources: frozenset[str] = frozenset()
    """The datasources that it reads, directly or through other pipes."""
    declared: frozenset[str] = field(default_factory=frozenset)
    """The parameters that its file declares."""
    quoted: bool | None = None
    """Whether JSON results have large integers as strings; None for the server's default."""

    def node(self, name: str) -> CompiledNode | None:
        """The node of a name, or None."""
        return next((n for n in self.nodes if n.name == name), None)

    def needed(self, upto: str | None = None) -> tuple[CompiledNode, ...]:
        """The published node (or the node `upto`) and the nodes that it depends on, in order."""
        last = upto or self.published
        needed, nodes = {last}, []
        for node in reversed(self.nodes):
            if node.name in needed:
                needed |= node.reads
                nodes.append(node)
        return tuple(reversed(nodes))

    @property
    def reads(self) -> frozenset[str]:
        """Datasources and pipes that the pipe reads directly."""
        node_names = {n.name for n in self.nodes}
        return frozenset(r for n in self.needed() for r in n.reads) - node_names

    @property
    def varies(self) -> bool:
        """Whether its SQL depends on parameters."""
        return any(n.static is None for n in self.nodes)

    def published_text(self) -> Verified:
        """The published node's SQL, for materialized pipes. Raises VIEW_SHAPE for SQL that depends on parameters."""
        node = self.node(self.published)
        if node is None or node.static is None:
            raise RookeryError(VIEW_SHAPE, f"the SQL of pipe `{self.name}` depends on parameters", place=self.place)
        return node.static

    @property
    def tenant_keys(self) -> frozenset[str]:
        """The parameters that select the tenant."""
        return frozenset(p.name for p in self.parameters if p.tenant_key)

    @property
    def warnings(self) -> tuple[RookeryError, ...]:
        """The warnings of all nodes."""
        return tuple(w for n in self.nodes for w in n.warnings)


def check_node_count(pipe: Pipe) -> None:
    """Raise BAD_VALUE for a pipe with too many nodes: each has its own set of the names that it may read."""
    if len(pipe.nodes) > MAX_NODES:
        message = f"the pipe has {len(pipe.nodes):,} nodes; {MAX_NODES:,} are allowed"
        raise RookeryError(BAD_VALUE, message, hint="divide it into several pipes", place=pipe.place_of("nodes"))


def compile_pipe(pipe: Pipe, names: frozenset[str], columns: frozenset[str], verifier: TextVerifier) -> CompiledPipe:
    """Compile a pipe's templates and verify all SQL that they can produce. Raises `Problems`.

    `names` are the datasources and pipes that it may read, `columns` the columns that its templates may name.
    """
    problems = Collector()
    templates = {n.name: _template(pipe, n, problems) for n in pipe.nodes}
    compiler = _NodeCompiler(pipe, columns, any(t.names_columns for t in templates.values()), verifier)
    nodes: list[CompiledNode] = []
    for node in pipe.nodes:
        # Only nodes above it, so that the nodes of a pipe cannot form a cycle.
        bound = (names - {pipe.name}) | {n.name for n in nodes}
        template = templates[node.name]
        try:
            nodes.append(compiler.node(node, template, bound))
        except RookeryError as exc:
            problems.add(placed(_with_order_hint(exc, pipe, len(nodes)), pipe.name, node))
            # A placeholder, so that later nodes that read this one are still verified.
            nodes.append(CompiledNode(node.name, node.place, _EMPTY_TEMPLATE, bound, None, frozenset()))
    problems.raise_if_any()
    parameters = _parameters(pipe, nodes)
    return CompiledPipe(
        name=pipe.name,
        kind=pipe.kind,
        description=pipe.description,
        place=pipe.place,
        nodes=tuple(nodes),
        published=_published(pipe),
        parameters=parameters,
        limits=pipe.limits,
        quoted=pipe.quote_64bit_integers,
        target=_target(pipe),
        columns=columns,
        declared=frozenset(p.name for p in pipe.parameters),
    )


def _target(pipe: Pipe) -> MaterializedTarget | None:
    """The target as declared; the analysis completes it."""
    materialize = pipe.materialize
    if materialize is None:
        return None
    return MaterializedTarget(
        materialize.target, materialize.per_tenant, materialize.drop_tenant_column, materialize.engine
    )


def _published(pipe: Pipe) -> str:
    """The node that is stored, or served, or else the last one."""
    node = pipe.materialized or pipe.published or pipe.nodes[-1]
    return node.name


_EMPTY_TEMPLATE = compile_template("SELECT 1")


def _template(pipe: Pipe, node: Node, problems: Collector) -> Template:
    """The compiled template of a node; an empty one, with a problem, if it is not valid."""
    try:
        return compile_template(node.sql, node.place, node.position)
    except RookeryError as exc:
        problems.add(placed(exc, pipe.name, node))
        return _EMPTY_TEMPLATE


class _NodeCompiler:
    """Compiles the nodes of one pipe in order. If a template selects columns by parameter, aliases are collected."""

    def __init__(self, pipe: Pipe, columns: frozenset[str], selects_columns: bool, verifier: TextVerifier) -> None:
        self._pipe, self._columns, self._verifier = pipe, columns, verifier
        self._aliases: frozenset[str] | None = frozenset() if selects_columns else None
        self._declared = {p.name: _declared(p) for p in pipe.parameters}

    def node(self, node: Node, template: Template, bound: frozenset[str]) -> CompiledNode:
        """Verify all SQL that a node can produce. Raises the first problem, with a place relative to the node."""
        pipe = self._pipe
        if template.is_static:
            # Only the last node becomes the SELECT of a view. The nodes before it are WITH queries of that SELECT.
            is_view = pipe.kind == "materialized" and node.name == _published(pipe)
            text = self._verifier(template.text, bound, view=is_view)
            aliases = self._collect_aliases([text])
            return CompiledNode(node.name, node.place, template, bound, text, text.reads, aliases)
        if pipe.kind == "materialized":
            raise RookeryError(
                VIEW_SHAPE,
                "a materialized pipe cannot be a template",
                hint="a view has no parameters; write plain SQL",
            )
        reads, texts, warnings = self._texts(node, template, bound)
        warnings += [_clash_warning(text, place, pipe.name, node) for place, text in template.type_conflicts]
        aliases = self._collect_aliases(texts)
        if self._aliases is not None:
            # All names of columns are known now, so render the samples again and check the names strictly.
            samples(template, self._columns | self._aliases, self._declared)
        return CompiledNode(node.name, node.place, template, bound, None, frozenset(reads), aliases, tuple(warnings))

    def _texts(
        self, node: Node, template: Template, bound: frozenset[str]
    ) -> tuple[set[str], list[Verified], list[RookeryError]]:
        """Verify the sample SQL of a template. Returns the names that it reads, the verified SQL, and warnings.

        If SQL that occurs only with some values reads an unknown table, that is only a warning.
        """
        reads, texts, warnings = set[str](), list[Verified](), dict[str, RookeryError]()
        for sample in samples(template, self._columns, self._declared, any_column=self._aliases is not None):
            try:
                text = self._verifier(sample.text, bound, sample.binder.types)
                check_used(text, frozenset(sample.binder.types))
            except RookeryError as exc:
                if not sample.when or (sample.strict and exc.code is not TABLE_REFUSED):
                    raise _with_request(exc, sample) from exc
                # The SQL cannot be parsed. The names that it seems to read are still recorded, so that the order of
                # data flow includes them.
                reads |= bound.intersection(_AFTER_FROM.findall(_STRINGS.sub("''", sample.text)))
                if exc.code is TABLE_REFUSED:
                    warnings.setdefault(exc.message, _branch_warning(exc, sample.when, self._pipe.name, node))
                continue
            reads |= text.reads
            texts.append(text)
        return reads, texts, list(warnings.values())

    def _collect_aliases(self, texts: list[Verified]) -> frozenset[str]:
        """The names that SQL gives to values. They are added to the names that later templates may choose."""
        if self._aliases is None:
            return frozenset()
        aliases = frozenset(n for t in texts for n in names_of_values(self._verifier.tree(t.canonical)))
        self._aliases |= aliases
        return aliases


def _clash_warning(text: str, place: Place | None, pipe: str, node: Node) -> RookeryError:
    hint = "each place converts the value to its own type; the documentation shows the first one"
    return placed(RookeryError(PARAMETER_CLASH, text, hint=hint, place=place), pipe, node)


def _branch_warning(exc: RookeryError, when: str, pipe: str, node: Node) -> RookeryError:
    place = placed(exc, pipe, node).place
    return RookeryError(BRANCH, f"{exc.message}, {when}", hint=exc.hint, place=place)


def _with_request(exc: RookeryError, sample: Sample) -> RookeryError:
    """The error of SQL that cannot be parsed, with a hint about the request that leads to it."""
    if exc.code is not SQL_SYNTAX or exc.hint or not sample.request:
        return exc
    return exc.with_hint(f"the template renders this SQL for {sample.request}")


def check_used(text: Verified, names: frozenset[str]) -> None:
    """Refuse SQL with a placeholder inside a literal or a comment, where its value would have no effect."""
    unquoted = _STRINGS.sub("", text.canonical)
    hidden = [f"{{{name}:" for name in sorted(names) if f"{{{name}:" not in unquoted]
    if hidden:
        # The canonical text has no comments.
        quoted = hidden[0] in text.canonical
        raise RookeryError(
            TEMPLATE,
            f"a value is inside {'quotes' if quoted else 'a comment'}, where it cannot be bound",
            hint="remove the quotes; for LIKE write concat('%', {{String(x)}}, '%')"
            if quoted
            else "remove it, or write {# … #} around the comment",
        )


def _with_order_hint(exc: RookeryError, pipe: Pipe, position: int) -> RookeryError:
    """The error for an unknown name, with a hint if it is the name of a later node."""
    later = [n.name for n in pipe.nodes[position:] if exc.message.endswith(f" node `{n.name}`")]
    if exc.code is not TABLE_REFUSED or not later:
        return exc
    return exc.with_hint(f"a node reads only nodes above it; move `{later[0]}` up")


def placed(exc: RookeryError, pipe: str, node: Node) -> RookeryError:
    """An error of a node, with its position in the file."""
    code = UNKNOWN_TABLE if exc.code is TABLE_REFUSED else exc.code
    if exc.place is not None and exc.place.file:
        return exc
    line, column = (exc.place.line, exc.place.column) if exc.place else (None, None)
    place = (refused_name(exc, node) if line is None else None) or node.position(line or 1, column or 1)
    placed = Place(place.file, place.line, place.column, f"pipe `{pipe}`, node `{node.name}`")
    return RookeryError(code, exc.message, hint=exc.hint, place=placed, detail=exc.detail)


def _parameters(pipe: Pipe, nodes: list[CompiledNode]) -> tuple[ParameterSpec, ...]:
    """The declared parameters, followed by the others that the templates use.

    Adds warnings to `nodes` whose type for a parameter differs from an earlier node's. Raises PARAMETER_CLASH for a
    type that differs from the file's `parameters`.
    """
    declared = {p.name: _declared(p) for p in pipe.parameters}
    specs = dict(declared)
    warned: set[str] = set()
    for position, node in enumerate(nodes):
        for spec in node.template.parameters:
            known = specs.setdefault(spec.name, spec)
            if known is spec or known.type == spec.type or not (spec.explicit and known.explicit):
                continue
            if spec.name in declared:
                text = f"parameter `{spec.name}` is {known.type} under `parameters` and {spec.type} in the template"
                hint = f"give it `type: {spec.type}` under `parameters`, where an absent type means String"
                raise RookeryError(PARAMETER_CLASH, text, hint=hint, place=node.place)
            text = f"parameter `{spec.name}` is {known.type} in one place and {spec.type} in another"
            if spec.name in warned:
                continue
            warned.add(spec.name)
            warning = _clash_warning(text, None, pipe.name, pipe.nodes[position])
            nodes[position] = replace(nodes[position], warnings=(*nodes[position].warnings, warning))
    return tuple(specs.values())


def _declared(parameter: Parameter) -> ParameterSpec:
    """The parameter that an entry under `parameters` declares. A default makes it optional."""
    return ParameterSpec(
        name=parameter.name,
        type=parameter.type,
        default=parameter.default,
        description=parameter.description,
        required=parameter.required and parameter.default is None,
        enum=tuple(parameter.enum) if parameter.enum else None,
        example=parameter.example,
        tenant_key=parameter.tenant_key,
    )
