"""One pipe, compiled: templates, verified texts, parameters, what it reads and where it goes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from engine.errors import (
    BRANCH,
    PARAMETER_CLASH,
    TABLE_REFUSED,
    TEMPLATE,
    UNKNOWN_TABLE,
    VIEW_SHAPE,
    Collector,
    Place,
    RookeryError,
)
from engine.project.model import Engine, Limits, Node, Parameter, Pipe
from engine.sql.tenant_lineage import named
from engine.sql.verify import Verified
from engine.template.dry_run import samples
from engine.template.environment import Template, compile_template
from engine.template.parameters import ParameterSpec

_AFTER_FROM = re.compile(r"\b(?:FROM|JOIN|IN)\s*+\(?\s*+`?([A-Za-z_][A-Za-z0-9_]*)`?", re.IGNORECASE)
_STRINGS = re.compile(r"'(?:[^'\\]|\\(?:.|\Z))*+(?:'|\Z)", re.DOTALL)


class Judge(Protocol):
    """Verifies author texts, and has their syntax trees."""

    def __call__(
        self, sql: str, bound: frozenset[str], placeholders: Mapping[str, str] | None = None, *, view: bool = False
    ) -> Verified: ...

    def tree(self, sql: str) -> Mapping[str, Any]: ...


@dataclass(frozen=True, slots=True)
class CompiledNode:
    """A node: its template, the names that it may use, its verified text if that never varies, and what it reads.

    `reads` are the names in every branch of the template. `aliases` are the names that it gives to values; they are
    looked up only where a template of the pipe names columns.
    """

    name: str
    place: Place
    template: Template
    bound: frozenset[str]
    static: Verified | None
    reads: frozenset[str]
    aliases: frozenset[str] = frozenset()
    warnings: tuple[RookeryError, ...] = ()


@dataclass(frozen=True, slots=True)
class MaterializedTarget:
    """Where a materialized pipe goes. `columns` and `triggers` (per branch) are filled by analysis.

    `branches` are the texts of the views where they differ from the published node's.
    """

    name: str
    per_tenant: bool
    drop_tenant_column: bool
    engine: Engine | None
    columns: tuple[str, ...] = ()
    triggers: tuple[str, ...] = ()
    branches: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CompiledPipe:
    """A pipe. `kind` is endpoint, materialized or standard; `published` the node that is served or materialized."""

    name: str
    kind: str
    description: str
    place: Place
    nodes: tuple[CompiledNode, ...]
    published: str
    parameters: tuple[ParameterSpec, ...]
    limits: Limits
    target: MaterializedTarget | None = None
    columns: frozenset[str] = frozenset()
    datasources: frozenset[str] = frozenset()
    declared: frozenset[str] = field(default_factory=frozenset)
    quoted: bool | None = None

    def node(self, name: str) -> CompiledNode | None:
        return next((n for n in self.nodes if n.name == name), None)

    def needed(self, upto: str | None = None) -> tuple[CompiledNode, ...]:
        """The published node (or `upto`) and the nodes that it stands on, in order."""
        last = upto or self.published
        wanted, found = {last}, []
        for node in reversed(self.nodes):
            if node.name in wanted:
                wanted |= node.reads
                found.append(node)
        return tuple(reversed(found))

    @property
    def reads(self) -> frozenset[str]:
        """Datasources and pipes that the pipe reads directly."""
        own = {n.name for n in self.nodes}
        return frozenset(r for n in self.needed() for r in n.reads) - own

    @property
    def varies(self) -> bool:
        return any(n.static is None for n in self.nodes)

    def published_text(self) -> Verified:
        """The published node's text; only materialized pipes, whose texts never vary, are asked for it."""
        node = self.node(self.published)
        if node is None or node.static is None:
            raise RookeryError(VIEW_SHAPE, f"pipe `{self.name}` has no fixed text", place=self.place)
        return node.static

    @property
    def tenant_keys(self) -> frozenset[str]:
        return frozenset(p.name for p in self.parameters if p.tenant_key)

    @property
    def warnings(self) -> tuple[RookeryError, ...]:
        """What is suspicious in its templates, but no error."""
        return tuple(w for n in self.nodes for w in n.warnings)


def compile_pipe(pipe: Pipe, names: frozenset[str], columns: frozenset[str], verifier: Judge) -> CompiledPipe:
    """Compile a pipe's templates and verify each text they can become. Raises `Problems`."""
    problems = Collector()
    templates = {n.name: _template(pipe, n, problems) for n in pipe.nodes}
    making = _Making(pipe, columns, any(t.names_columns for t in templates.values()), verifier)
    nodes: list[CompiledNode] = []
    for node in pipe.nodes:
        bound = (names - {pipe.name}) | {n.name for n in nodes}
        template = templates[node.name]
        try:
            nodes.append(making.node(node, template, bound))
        except RookeryError as exc:
            problems.add(placed(_of_order(exc, pipe, len(nodes)), pipe.name, node))
            nodes.append(CompiledNode(node.name, node.place, _NOTHING, bound, None, frozenset()))
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
    given = pipe.materialize
    if given is None:
        return None
    return MaterializedTarget(given.target, given.per_tenant, given.drop_tenant_column, given.engine)


def _published(pipe: Pipe) -> str:
    node = pipe.materialized or pipe.published or pipe.nodes[-1]
    return node.name


_NOTHING = compile_template("SELECT 1")


def _template(pipe: Pipe, node: Node, problems: Collector) -> Template:
    try:
        return compile_template(node.sql, node.place, node.position)
    except RookeryError as exc:
        problems.add(placed(exc, pipe.name, node))
        return _NOTHING


class _Making:
    """The nodes of one pipe in the making; aliases gather where templates choose columns."""

    def __init__(self, pipe: Pipe, columns: frozenset[str], choosing: bool, verifier: Judge) -> None:
        self._pipe, self._columns, self._verifier = pipe, columns, verifier
        self._aliases: frozenset[str] | None = frozenset() if choosing else None
        self._declared = {p.name: _declared(p) for p in pipe.parameters}

    def node(self, node: Node, template: Template, bound: frozenset[str]) -> CompiledNode:
        """Verify each text that a node can become. Raises the first problem, without its place in the file."""
        pipe = self._pipe
        if template.is_static:
            is_view = pipe.kind == "materialized" and node.name == _published(pipe)
            text = self._verifier(template.text, bound, view=is_view)
            aliases = self._named([text])
            return CompiledNode(node.name, node.place, template, bound, text, text.reads, aliases)
        if pipe.kind == "materialized":
            raise RookeryError(
                VIEW_SHAPE,
                "a materialized pipe cannot be a template",
                hint="a view has no parameters; write plain SQL",
            )
        reads, texts, warnings = self._texts(node, template, bound)
        warnings += [_clash(text, place, pipe.name, node) for place, text in template.type_conflicts]
        aliases = self._named(texts)
        if self._aliases is not None:
            # Now it is known what can be named, so that the same texts are made once more, strictly.
            samples(template, self._columns | self._aliases, self._declared)
        return CompiledNode(node.name, node.place, template, bound, None, frozenset(reads), aliases, tuple(warnings))

    def _texts(
        self, node: Node, template: Template, bound: frozenset[str]
    ) -> tuple[set[str], list[Verified], list[RookeryError]]:
        reads, texts, warnings = set[str](), list[Verified](), dict[str, RookeryError]()
        for sample in samples(template, self._columns, self._declared, any_column=self._aliases is not None):
            try:
                text = self._verifier(sample.text, bound, sample.binder.types)
                check_used(text, frozenset(sample.binder.types))
            except RookeryError as exc:
                if not sample.when or (sample.strict and exc.code is not TABLE_REFUSED):
                    raise
                reads |= bound.intersection(_AFTER_FROM.findall(_STRINGS.sub("''", sample.text)))
                if exc.code is TABLE_REFUSED:
                    warnings.setdefault(exc.message, _branch(exc, sample.when, self._pipe.name, node))
                continue
            reads |= text.reads
            texts.append(text)
        return reads, texts, list(warnings.values())

    def _named(self, texts: list[Verified]) -> frozenset[str]:
        if self._aliases is None:
            return frozenset()
        found = frozenset(n for t in texts for n in named(dict(self._verifier.tree(t.canonical))))
        self._aliases |= found
        return found


def _clash(text: str, place: Place | None, pipe: str, node: Node) -> RookeryError:
    hint = "each place takes the value in its own way; the first type is the documented one"
    return placed(RookeryError(PARAMETER_CLASH, text, hint=hint, place=place), pipe, node)


def _branch(exc: RookeryError, when: str, pipe: str, node: Node) -> RookeryError:
    place = placed(exc, pipe, node).place
    return RookeryError(BRANCH, f"{exc.message}, {when}", hint=exc.hint, place=place)


def check_used(text: Verified, names: frozenset[str]) -> None:
    """Refuse a text in which a bound value stands inside a literal or a comment, where it would do nothing."""
    bare = _STRINGS.sub("", text.canonical)
    if any(f"{{{name}:" not in bare for name in names):
        raise RookeryError(
            TEMPLATE,
            "a value stands inside quotes or a comment, where it cannot be bound",
            hint="leave the quotes out; for LIKE write concat('%', {{String(x)}}, '%')",
        )


def _of_order(exc: RookeryError, pipe: Pipe, position: int) -> RookeryError:
    """An unknown name, with a hint if it is that of a node that comes later."""
    later = [n.name for n in pipe.nodes[position:] if exc.message.endswith(f" node `{n.name}`")]
    if exc.code is not TABLE_REFUSED or not later:
        return exc
    hint = f"a node reads only nodes above it; move `{later[0]}` up"
    return RookeryError(exc.code, exc.message, hint=hint, place=exc.place, detail=exc.detail)


def placed(exc: RookeryError, pipe: str, node: Node) -> RookeryError:
    """An error of a node with its place in the file."""
    code = UNKNOWN_TABLE if exc.code is TABLE_REFUSED else exc.code
    if exc.place is not None and exc.place.file:
        return exc
    line, column = (exc.place.line, exc.place.column) if exc.place else (None, None)
    place = node.position(line or 1, column or 1)
    placed = Place(place.file, place.line, place.column, f"pipe `{pipe}`, node `{node.name}`")
    return RookeryError(code, exc.message, hint=exc.hint, place=placed, detail=exc.detail)


def _parameters(pipe: Pipe, nodes: list[CompiledNode]) -> tuple[ParameterSpec, ...]:
    """Declared parameters first, completed by what the templates use; nodes that contradict others get a warning.

    Raises PARAMETER_CLASH for a template that contradicts the file's `parameters`.
    """
    declared = {p.name: _declared(p) for p in pipe.parameters}
    found = dict(declared)
    noted: set[str] = set()
    for position, node in enumerate(nodes):
        for spec in node.template.parameters:
            known = found.setdefault(spec.name, spec)
            if known is spec or known.type == spec.type or not (spec.explicit and known.explicit):
                continue
            if spec.name in declared:
                text = f"parameter `{spec.name}` is {known.type} under `parameters` and {spec.type} in the template"
                hint = f"give it `type: {spec.type}` under `parameters`, where an absent type means String"
                raise RookeryError(PARAMETER_CLASH, text, hint=hint, place=node.place)
            text = f"parameter `{spec.name}` is {known.type} in one place and {spec.type} in another"
            if spec.name in noted:
                continue
            noted.add(spec.name)
            warning = _clash(text, None, pipe.name, pipe.nodes[position])
            nodes[position] = replace(nodes[position], warnings=(*nodes[position].warnings, warning))
    return tuple(found.values())


def _declared(parameter: Parameter) -> ParameterSpec:
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
