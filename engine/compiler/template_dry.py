"""Dry runs of one template: the texts that it can become, without a caller.

A template is rendered with every parameter given, with none of the optional ones, and once for each value that it
names itself. Branches that none of these reach are forced, so that every name in the template is seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from engine.compiler.params import ParameterSpec, kind
from engine.compiler.template import Template
from engine.compiler.template_values import Arms, Binder
from engine.errors import RookeryError

MAX_SAMPLES = 64
"""Most dry runs of one template with values, and most with forced branches."""
MAX_STRICT = 16
"""How many of them must be valid SQL; of the rest only the names are looked at."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A text that the template can become. `when` says what leads to it, where no caller may ever do that.

    A text that is not `strict` may be no valid SQL: its conditions were forced, so that its parts need not fit
    each other.
    """

    text: str
    binder: Binder
    when: str = ""
    strict: bool = True


def made_up(spec: ParameterSpec, identifiers: Iterable[str], columns: Iterable[str]) -> object:
    """The value of a parameter in dry runs: its example, default or first choice, else one of its type."""
    for value in (spec.example, spec.default, *(spec.enum or ())):
        if value is not None:
            return value
    if spec.name in identifiers:
        return min(columns, default="")
    return kind(spec.type).sample


def samples(
    template: Template,
    columns: frozenset[str],
    declared: Mapping[str, ParameterSpec] | None = None,
    *,
    any_column: bool = False,
) -> list[Sample]:
    """Dry runs with distinct texts. `declared` are parameters that the pipe's file describes.

    With `any_column`, names that stand in `column()` and the like are not checked. Raises what the author did wrong
    in a text that callers can ask for.
    """
    if template.is_static:
        return [Sample(template.text, Binder())]
    specs = {p.name: (declared or {}).get(p.name, p) for p in template.parameters}
    values = {n: made_up(s, template.identifiers, columns) for n, s in specs.items()}
    known = None if any_column else columns
    arms = Arms()
    found: dict[str, Sample] = {}
    for position, (request, when) in enumerate(_requests(template, specs, values)):
        binder = Binder()
        try:
            text = template.dry(request, values, binder, known, arms)
        except RookeryError:
            if position < MAX_STRICT:
                raise
            continue
        if text not in found or (found[text].when and not when):
            found[text] = Sample(text, binder, when, position < MAX_STRICT)
    for forced in _unreached(template, arms):
        binder = Binder()
        try:
            text = template.dry(values, values, binder, known, Arms(forced, arms.seen))
        except RookeryError:
            # Conditions were not evaluated, so what stands below them need not be possible.
            continue
        found.setdefault(text, Sample(text, binder, "in a branch that no sample value reaches", strict=False))
    return list(found.values())


def _requests(
    template: Template, specs: Mapping[str, ParameterSpec], values: Mapping[str, object]
) -> list[tuple[Mapping[str, object], str]]:
    found: list[tuple[Mapping[str, object], str]] = [(values, ""), ({}, "")]
    for name, value in template.compared:
        found.append(({**values, name: value}, f"when `{name}` is {_shown(value)}"))
    for spec in specs.values():
        found += [({**values, spec.name: e}, "") for e in spec.enum or () if e is not None]
    return found[:MAX_SAMPLES]


def _unreached(template: Template, arms: Arms) -> Iterator[Mapping[int, bool]]:
    """Outcomes to force, one set for each branch that was not reached yet."""
    left = MAX_SAMPLES
    for number, condition in enumerate(template.conditions):
        for outcome in (True, False) if condition.has_else else (True,):
            if (number, outcome) not in arms.seen and left:
                left -= 1
                yield {**condition.after, number: outcome}


def _shown(value: Any) -> str:
    return f"'{value}'" if isinstance(value, str) else str(value)
