"""One pipe, compiled: templates, verified texts, parameters, what it reads and where it goes."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from engine.compiler.params import ParameterSpec
from engine.compiler.template import Binder, Template, compile_template
from engine.compiler.verify import Verified
from engine.errors import (
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

VARIANTS = (0, 1)
"""Sample renderings of a template: with every parameter given, and with none of the optional ones."""


_STRINGS = re.compile(r"'(?:[^'\\]|\\(?:.|\Z))*+(?:'|\Z)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class CompiledNode:
    """A node: its template, the names that it may use, its verified text if that never varies, and what it reads."""

    name: str
    place: Place
    template: Template
    bound: frozenset[str]
    static: Verified | None
    reads: frozenset[str]


@dataclass(frozen=True, slots=True)
class MaterializedTarget:
    """Where a materialized pipe goes. `columns` and `triggers` (per branch) are filled by analysis."""

    name: str
    per_tenant: bool
    drop_tenant_column: bool
    engine: Engine | None
    columns: tuple[str, ...] = ()
    triggers: tuple[str, ...] = ()


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


def compile_pipe(
    pipe: Pipe, names: frozenset[str], columns: frozenset[str], verifier: Callable[..., Verified]
) -> CompiledPipe:
    """Compile a pipe's templates and verify each text they can become. Raises `Problems`."""
    problems = Collector()
    nodes: list[CompiledNode] = []
    for node in pipe.nodes:
        bound = (names - {pipe.name}) | {n.name for n in nodes}
        try:
            nodes.append(_compile_node(pipe, node, bound, columns, verifier))
        except RookeryError as exc:
            problems.add(_placed(exc, pipe, node))
            nodes.append(CompiledNode(node.name, node.place, compile_template("SELECT 1"), bound, None, frozenset()))
    problems.raise_if_any()
    return CompiledPipe(
        name=pipe.name,
        kind=pipe.kind,
        description=pipe.description,
        place=pipe.place,
        nodes=tuple(nodes),
        published=_published(pipe),
        parameters=_parameters(pipe, nodes),
        limits=pipe.limits,
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


def _compile_node(
    pipe: Pipe, node: Node, bound: frozenset[str], columns: frozenset[str], verifier: Callable[..., Verified]
) -> CompiledNode:
    template = compile_template(node.sql, node.place, node.position)
    if template.is_static:
        is_view = pipe.kind == "materialized" and node.name == _published(pipe)
        text = verifier(template.render({}, Binder(), columns), bound, view=is_view)
        return CompiledNode(node.name, node.place, template, bound, text, text.reads)
    if pipe.kind == "materialized":
        raise RookeryError(
            VIEW_SHAPE, "a materialized pipe cannot be a template", hint="a view has no parameters; write plain SQL"
        )
    reads: set[str] = set()
    for sample, binder in template.samples(columns):
        text = verifier(sample, bound, binder.types)
        check_used(text, frozenset(binder.types))
        reads |= text.reads
    return CompiledNode(node.name, node.place, template, bound, None, frozenset(reads))


def check_used(text: Verified, names: frozenset[str]) -> None:
    """Refuse a text in which a bound value stands inside a literal or a comment, where it would do nothing."""
    bare = _STRINGS.sub("", text.canonical)
    if any(f"{{{name}:" not in bare for name in names):
        raise RookeryError(
            TEMPLATE,
            "a value stands inside quotes or a comment, where it cannot be bound",
            hint="leave the quotes out; for LIKE write concat('%', {{String(x)}}, '%')",
        )


def _placed(exc: RookeryError, pipe: Pipe, node: Node) -> RookeryError:
    code = UNKNOWN_TABLE if exc.code is TABLE_REFUSED else exc.code
    if exc.place is not None and exc.place.file:
        return exc
    line, column = (exc.place.line, exc.place.column) if exc.place else (None, None)
    place = node.position(line or 1, column or 1)
    placed = Place(place.file, place.line, place.column, f"pipe `{pipe.name}`, node `{node.name}`")
    return RookeryError(code, exc.message, hint=exc.hint, place=placed, detail=exc.detail)


def _parameters(pipe: Pipe, nodes: list[CompiledNode]) -> tuple[ParameterSpec, ...]:
    """Declared parameters first, completed by what the templates use."""
    found: dict[str, ParameterSpec] = {p.name: _declared(p) for p in pipe.parameters}
    for node in nodes:
        for spec in node.template.parameters:
            known = found.setdefault(spec.name, spec)
            if known is not spec and known.type != spec.type and spec.explicit and known.explicit:
                raise RookeryError(
                    PARAMETER_CLASH,
                    f"parameter `{spec.name}` is {known.type} in one place and {spec.type} in another",
                    place=node.place,
                )
    return tuple(found.values())


def _declared(parameter: Parameter) -> ParameterSpec:
    return ParameterSpec(
        name=parameter.name,
        type=parameter.type,
        default=parameter.default,
        description=parameter.description,
        required=parameter.required,
        enum=tuple(parameter.enum) if parameter.enum else None,
        example=parameter.example,
        tenant_key=parameter.tenant_key,
    )
