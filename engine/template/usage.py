"""What a template says about its parameters: types, defaults, descriptions, and which of them it needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jinja2 import nodes

from engine.template.functions import PLAIN_TYPES, item_type
from engine.template.parameters import ParameterSpec, kind

TYPE_FUNCTIONS = frozenset({*PLAIN_TYPES, "Array", "Decimal", "DateTime64"})
IDENTIFIER_FUNCTIONS = frozenset({"column", "columns", "symbol"})


@dataclass(slots=True)
class Use:
    """What one parameter is used as; the first use that says something counts."""

    type: str | None = None
    line: int = 0
    needed: bool = False
    required: bool | None = None
    has_default: bool = False
    optional: bool = False
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition of the template: the outcomes that lead to it, and whether text depends on its failing."""

    after: Mapping[int, bool]
    has_else: bool


@dataclass(slots=True)
class Findings:
    """What the walk found: uses by name, names used as identifiers, texts that parameters are compared with, and
    the conditions by number."""

    uses: dict[str, Use] = field(default_factory=dict)
    identifiers: set[str] = field(default_factory=set)
    compared: list[tuple[str, Any]] = field(default_factory=list)
    conditions: list[Condition] = field(default_factory=list)
    names_columns: bool = False
    clashes: list[tuple[int, str]] = field(default_factory=list)

    def condition(self, after: Mapping[int, bool], has_else: bool) -> int:
        """Note a condition and return its number."""
        self.conditions.append(Condition(dict(after), has_else))
        return len(self.conditions) - 1

    def use(self, name: str, line: int) -> Use:
        """What is known of a parameter so far."""
        return self.uses.setdefault(name, Use(line=line))

    def declare(self, name: str, type: str, call: nodes.Call, function: str, *, certain: bool) -> None:
        """Note a call of a type function with a parameter, and where it contradicts an earlier one."""
        if function in IDENTIFIER_FUNCTIONS:
            self.identifiers.add(name)
        use = self.use(name, call.lineno)
        if use.type not in (None, type):
            clash = f"parameter `{name}` is {use.type} in line {use.line} and {type} in line {call.lineno}"
            self.clashes.append((call.lineno, clash))
        if use.type is None:
            use.type, use.line = type, call.lineno
        said = _said(call, function)
        use.has_default |= "default" in said
        use.optional |= use.has_default or constant(said.get("defined")) is False
        use.needed |= certain and not use.optional
        if use.required is None and "required" in said:
            use.required = bool(constant(said["required"]))
        for key, node in said.items():
            if constant(node) is not None:
                use.attributes.setdefault(key, constant(node))

    def compare(self, node: nodes.Compare, local: set[str]) -> None:
        """Note the constants that a parameter is compared with, so that dry runs can take those branches."""
        subject = node.expr
        if isinstance(subject, nodes.Call) and isinstance(subject.node, nodes.Name) and subject.args:
            subject = subject.args[0] if subject.node.name in TYPE_FUNCTIONS else subject
        if not isinstance(subject, nodes.Name) or subject.name in local:
            return
        for operand in node.ops:
            value = constant(operand.expr)
            values = value if isinstance(value, list) else [value]
            if operand.op in ("eq", "in", "ne"):
                self.compared += [(subject.name, v) for v in values if isinstance(v, str | int | float)]

    def specs(self) -> tuple[ParameterSpec, ...]:
        return tuple(_spec(name, use) for name, use in self.uses.items())


def _spec(name: str, use: Use) -> ParameterSpec:
    said = use.attributes
    enum = said.get("enum")
    needed = use.needed and not use.optional
    return ParameterSpec(
        name=name,
        type=use.type or "String",
        default=said.get("default"),
        description=_text(said.get("description")),
        # A default is taken whenever there is one, so that `required=True` beside it only documents.
        required=not use.has_default and (needed if use.required is None else use.required),
        enum=tuple(enum) if isinstance(enum, list) else None,
        example=said.get("example"),
        format=_text(said.get("format")),
        explicit=use.type is not None,
    )


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def constant(node: nodes.Node | None) -> Any:
    """The value of a constant, of a list of constants or of a negative number; None for anything else."""
    if isinstance(node, nodes.Const):
        return node.value
    if isinstance(node, nodes.Neg) and isinstance(node.node, nodes.Const):
        value = node.node.value
        return -value if isinstance(value, int | float) else None
    if isinstance(node, nodes.List | nodes.Tuple):
        return [constant(item) for item in node.items]
    return None


def _said(call: nodes.Call, function: str) -> dict[str, nodes.Node]:
    """Keywords of a type function's call, and its default where that was given by position."""
    said: dict[str, nodes.Node] = {k.key: k.value for k in call.kwargs}
    position = {"Array": 2, "Decimal": 3}.get(function, 1)
    if function != "symbol" and len(call.args) > position:
        said["default"] = call.args[position]
    return {key: node for key, node in said.items() if not (isinstance(node, nodes.Const) and node.value is None)}


def declared_type(call: nodes.Call, function: str) -> str | None:
    """The canonical type that a type function declares, from constants; None for other functions.

    Raises BAD_TYPE for a type that parameters cannot have.
    """
    if function in IDENTIFIER_FUNCTIONS:
        return "String"
    if function not in TYPE_FUNCTIONS:
        return None
    said = {k.key: constant(k.value) for k in call.kwargs}
    given = [constant(argument) for argument in call.args]

    def argument(position: int, name: str, default: Any = None) -> Any:
        return given[position] if len(given) > position else said.get(name, default)

    if function == "Array":
        return kind(f"Array({item_type(argument(1, 'type', 'String'))})").type
    if function == "Decimal":
        return kind(f"Decimal({argument(1, 'precision')}, {argument(2, 'scale')})").type
    if function == "DateTime64":
        return kind(f"DateTime64({argument(2, 'precision', 6)})").type
    return kind(function).type
