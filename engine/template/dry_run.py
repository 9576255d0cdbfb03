"""Dry runs of one template: the texts that it can become, without a caller.

A template is rendered with every parameter given, with none of the optional ones, and once for each value that it
names itself. Branches that none of these reach are forced, so that every name in the template is seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from engine.errors import RookeryError
from engine.template.environment import Template
from engine.template.parameters import ParameterSpec, kind
from engine.template.values import Arms, Binder

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


def plain(spec: ParameterSpec, identifiers: Iterable[str], columns: Iterable[str]) -> object:
    """The value of a parameter in the runs that must succeed: its default or first choice, else an empty one."""
    for value in (spec.default, *(spec.enum or ())):
        if value is not None:
            return value
    if spec.name in identifiers:
        return min(columns, default="")
    return _empty(kind(spec.type).sample)


def _empty(sample: object) -> object:
    if isinstance(sample, list):
        return [_empty(item) for item in sample]
    return type(sample)() if type(sample) in (int, float) else sample


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
    values = {n: plain(s, template.identifiers, columns) for n, s in specs.items()}
    likely = {n: made_up(s, template.identifiers, columns) for n, s in specs.items()}
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
    for forced, when in _more(template, arms):
        binder = Binder()
        try:
            text = template.dry(likely, likely, binder, known, Arms(forced, arms.seen))
        except RookeryError:
            # Conditions were not evaluated, so what stands below them need not be possible.
            continue
        found.setdefault(text, Sample(text, binder, when, strict=False))
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


def _more(template: Template, arms: Arms) -> Iterator[tuple[Mapping[int, bool], str]]:
    """Outcomes to force: none at first, then one set for each branch that was not reached yet."""
    yield {}, "with the examples of parameters, or 1 for numbers"
    left = MAX_SAMPLES
    for number, condition in enumerate(template.conditions):
        for outcome in (True, False) if condition.has_else else (True,):
            if (number, outcome) not in arms.seen and left:
                left -= 1
                yield {**condition.after, number: outcome}, "in a branch that no sample value reaches"


def _shown(value: Any) -> str:
    return f"'{value}'" if isinstance(value, str) else str(value)
