"""Records how a template uses its parameters: their types, defaults and descriptions, and whether they are needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jinja2 import nodes

from engine.template.parameters import ParameterSpec, parameter_type
from engine.template.type_functions import PLAIN_TYPES, item_type

TYPE_FUNCTIONS = frozenset({*PLAIN_TYPES, "Array", "Decimal", "DateTime64"})
IDENTIFIER_FUNCTIONS = frozenset({"column", "columns", "symbol"})


@dataclass(slots=True)
class ParameterUse:
    """How a template uses one parameter. If two calls declare something differently, the first one counts."""

    type: str | None = None
    """The canonical type that a type function declares; None if the template only uses the name without a type
    function.
    """
    line: int = 0
    """The line of that declaration, or else of the first use."""
    needed: bool = False
    """Whether every rendering evaluates the parameter."""
    required: bool | None = None
    """The keyword `required` of a type function; None if no call has it."""
    has_default: bool = False
    optional: bool = False
    """Whether a call has a default or `defined=False`."""
    attributes: dict[str, Any] = field(default_factory=dict)
    """The constant keywords of type functions, such as `description` and `enum`."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition of an `if` or `elif`."""

    after: Mapping[int, bool]
    """The outcomes of other conditions, by number, that lead to this one."""
    has_else: bool
    """Whether an `elif` or `else` follows, so that some output depends on the condition being false."""


@dataclass(slots=True)
class TemplateUsage:
    """What `syntax.TemplateChecker` learns about a template."""

    uses: dict[str, ParameterUse] = field(default_factory=dict)
    """The parameters by name, in the order of their first use."""
    identifiers: set[str] = field(default_factory=set)
    """The parameters whose values are names of columns."""
    compared: list[tuple[str, Any]] = field(default_factory=list)
    """Pairs of a parameter and a constant that it is compared with."""
    conditions: list[Condition] = field(default_factory=list)
    """The conditions; a condition's number is its position."""
    names_columns: bool = False
    """Whether the template calls a function that prints names of columns."""
    type_conflicts: list[tuple[int, str]] = field(default_factory=list)
    """Parameters that are declared with two types, each as a line and a message."""

    def condition(self, after: Mapping[int, bool], has_else: bool) -> int:
        """Record a condition and return its number."""
        self.conditions.append(Condition(dict(after), has_else))
        return len(self.conditions) - 1

    def use(self, name: str, line: int) -> ParameterUse:
        """Return the record of a parameter, which is created at its first use."""
        return self.uses.setdefault(name, ParameterUse(line=line))

    def declare(self, name: str, type: str, call: nodes.Call, function: str, *, certain: bool) -> None:
        """Record a type function's call with a parameter, and whether it contradicts an earlier call.

        `certain` says that every rendering makes the call.
        """
        if function in IDENTIFIER_FUNCTIONS:
            self.identifiers.add(name)
        use = self.use(name, call.lineno)
        if use.type not in (None, type):
            conflict = f"parameter `{name}` is {use.type} on line {use.line} and {type} on line {call.lineno}"
            self.type_conflicts.append((call.lineno, conflict))
        if use.type is None:
            use.type, use.line = type, call.lineno
        keywords = _keywords(call, function)
        use.has_default |= "default" in keywords
        use.optional |= use.has_default or constant(keywords.get("defined")) is False
        # A call inside `if` may not run, so only a certain call makes the parameter needed.
        use.needed |= certain and not use.optional
        if use.required is None and "required" in keywords:
            use.required = bool(constant(keywords["required"]))
        for key, node in keywords.items():
            if constant(node) is not None:
                use.attributes.setdefault(key, constant(node))

    def compare(self, node: nodes.Compare, local: set[str]) -> None:
        """Record the constants with which a parameter is compared, so that dry runs can take those branches."""
        subject = node.expr
        if isinstance(subject, nodes.Call) and isinstance(subject.node, nodes.Name) and subject.args:
            # `String(kind) == 'a'` compares the parameter just as `kind == 'a'` does.
            subject = subject.args[0] if subject.node.name in TYPE_FUNCTIONS else subject
        if not isinstance(subject, nodes.Name) or subject.name in local:
            return
        for operand in node.ops:
            value = constant(operand.expr)
            values = value if isinstance(value, list) else [value]
            if operand.op in ("eq", "in", "ne"):
                self.compared += [(subject.name, v) for v in values if isinstance(v, str | int | float)]

    def specs(self) -> tuple[ParameterSpec, ...]:
        """Return the declarations of all parameters, in the order of their first use."""
        return tuple(_spec(name, use) for name, use in self.uses.items())


def _spec(name: str, use: ParameterUse) -> ParameterSpec:
    """The specification of a parameter, from all of its uses."""
    attributes = use.attributes
    enum = attributes.get("enum")
    needed = use.needed and not use.optional
    return ParameterSpec(
        name=name,
        type=use.type or "String",
        default=attributes.get("default"),
        description=_text(attributes.get("description")),
        # A default always applies, so `required=True` together with a default is only documentation.
        required=not use.has_default and (needed if use.required is None else use.required),
        enum=tuple(enum) if isinstance(enum, list) else None,
        example=attributes.get("example"),
        format=_text(attributes.get("format")),
        explicit=use.type is not None,
    )


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def constant(node: nodes.Node | None) -> Any:
    """Return the value of a constant, a list of constants or a negative number, and None for any other node."""
    if isinstance(node, nodes.Const):
        return node.value
    if isinstance(node, nodes.Neg) and isinstance(node.node, nodes.Const):
        value = node.node.value
        return -value if isinstance(value, int | float) else None
    if isinstance(node, nodes.List | nodes.Tuple):
        return [constant(item) for item in node.items]
    return None


def _keywords(call: nodes.Call, function: str) -> dict[str, nodes.Node]:
    """Return the keywords of a type function's call that are not None, with a positional default as a keyword."""
    keywords: dict[str, nodes.Node] = {k.key: k.value for k in call.kwargs}
    default_position = {"Array": 2, "Decimal": 3}.get(function, 1)
    if function != "symbol" and len(call.args) > default_position:
        keywords["default"] = call.args[default_position]
    return {key: node for key, node in keywords.items() if not (isinstance(node, nodes.Const) and node.value is None)}


def declared_type(call: nodes.Call, function: str) -> str | None:
    """Return the canonical type that a type function's call declares with constants, or None for other functions.

    Raises BAD_TYPE for a type that parameters cannot have.
    """
    if function in IDENTIFIER_FUNCTIONS:
        return "String"
    if function not in TYPE_FUNCTIONS:
        return None
    keywords = {k.key: constant(k.value) for k in call.kwargs}
    positional = [constant(argument) for argument in call.args]

    def argument(position: int, name: str, default: Any = None) -> Any:
        return positional[position] if len(positional) > position else keywords.get(name, default)

    if function == "Array":
        return parameter_type(f"Array({item_type(argument(1, 'type', 'String'))})").type
    if function == "Decimal":
        return parameter_type(f"Decimal({argument(1, 'precision')}, {argument(2, 'scale')})").type
    if function == "DateTime64":
        return parameter_type(f"DateTime64({argument(2, 'precision', 6)})").type
    return parameter_type(function).type
