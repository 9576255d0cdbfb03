"""Renders one template without a request, to find all SQL that it can produce.

A template is rendered with a value for every parameter, with none of the optional ones, and once for each constant
that it compares a parameter with. Branches that none of these runs reach are forced, so that every name in the
template is seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from engine.errors import RookeryError
from engine.template.environment import Template
from engine.template.parameters import ParameterSpec, parameter_type
from engine.template.values import Binder, Branches

MAX_SAMPLES = 64
"""Maximum number of dry runs of one template with values, and of dry runs with forced branches."""
MAX_SHOWN = 5
"""Maximum number of parameters that the description of a request names."""
MAX_STRICT = 16
"""Number of dry runs that must produce valid SQL. For the others, only the names that occur are checked."""


@dataclass(frozen=True, slots=True)
class Sample:
    """SQL that the template can produce."""

    text: str
    binder: Binder
    """The values to which the placeholders are bound."""
    when: str = ""
    """What leads to this SQL, if it is possible that no request does; empty for SQL that requests can produce."""
    strict: bool = True
    """Whether the result must be valid SQL. With forced conditions, its parts may not fit together."""
    request: str = ""
    """The request that leads to this SQL, in words."""


def minimal_value(spec: ParameterSpec, identifiers: Iterable[str], columns: Iterable[str]) -> object:
    """Return a parameter's value for runs that must succeed: its default or first `enum` value, otherwise an empty
    value.
    """
    for value in (spec.default, *(spec.enum or ())):
        if value is not None:
            return value
    if spec.name in identifiers:
        return min(columns, default="")
    return _empty(parameter_type(spec.type).sample)


def _empty(sample: object) -> object:
    if isinstance(sample, list):
        return [_empty(item) for item in sample]
    return type(sample)() if type(sample) in (int, float) else sample


def sample_value(spec: ParameterSpec, identifiers: Iterable[str], columns: Iterable[str]) -> object:
    """Return a parameter's likely value: its example, default or first `enum` value, otherwise a value of its
    type.
    """
    for value in (spec.example, spec.default, *(spec.enum or ())):
        if value is not None:
            return value
    if spec.name in identifiers:
        return min(columns, default="")
    return parameter_type(spec.type).sample


def samples(
    template: Template,
    columns: frozenset[str],
    declared: Mapping[str, ParameterSpec] | None = None,
    *,
    any_column: bool = False,
) -> list[Sample]:
    """Render the template and return the distinct results. `declared` are parameters that the pipe's file describes.

    With `any_column`, the names in `column()` and similar functions are not checked. Raises the author's mistakes in
    SQL that requests can produce.
    """
    if template.is_static:
        return [Sample(template.text, Binder())]
    specs = {p.name: (declared or {}).get(p.name, p) for p in template.parameters}
    values = {n: minimal_value(s, template.identifiers, columns) for n, s in specs.items()}
    likely = {n: sample_value(s, template.identifiers, columns) for n, s in specs.items()}
    known = None if any_column else columns
    branches = Branches()
    by_text: dict[str, Sample] = {}
    for sample in _value_samples(template, _requests(template, specs, values), values, known, branches):
        earlier = by_text.get(sample.text)
        # If the same SQL is reached in several ways, one that requests can produce takes precedence.
        if earlier is None or (earlier.when and not sample.when):
            by_text[sample.text] = sample
    for sample in _forced_samples(template, likely, known, branches):
        by_text.setdefault(sample.text, sample)
    return list(by_text.values())


def _value_samples(
    template: Template,
    requests: list[tuple[Mapping[str, object], str]],
    values: Mapping[str, object],
    columns: frozenset[str] | None,
    branches: Branches,
) -> Iterator[Sample]:
    """Render each request, completed from `values`. Raises the first error among the strict runs."""
    for position, (request, when) in enumerate(requests):
        binder, strict = Binder(), position < MAX_STRICT
        try:
            text = template.dry_run(request, values, binder, columns, branches)
        except RookeryError:
            if strict:
                raise
            continue
        yield Sample(text, binder, when, strict, _described(request))


def _forced_samples(
    template: Template, likely: Mapping[str, object], columns: frozenset[str] | None, branches: Branches
) -> Iterator[Sample]:
    """Render with likely values, once as they are and once for each branch that must be forced."""
    for forced, when in _forced_outcomes(template, branches):
        binder = Binder()
        try:
            text = template.dry_run(likely, likely, binder, columns, Branches(forced, branches.seen))
        except RookeryError:
            # The condition of the branch was not evaluated, so the branch may fail in ways that are impossible for
            # requests.
            continue
        yield Sample(text, binder, when, strict=False)


def _requests(
    template: Template, specs: Mapping[str, ParameterSpec], values: Mapping[str, object]
) -> list[tuple[Mapping[str, object], str]]:
    """Return the requests to render, each with the sample's `when`."""
    requests: list[tuple[Mapping[str, object], str]] = [(values, ""), ({}, "")]
    for name, value in template.compared:
        requests.append(({**values, name: value}, f"when `{name}` is {_shown(value)}"))
    for spec in specs.values():
        requests += [({**values, spec.name: e}, "") for e in spec.enum or () if e is not None]
    return requests[:MAX_SAMPLES]


def _forced_outcomes(template: Template, branches: Branches) -> Iterator[tuple[Mapping[int, bool], str]]:
    """Yield the outcomes to force: first none, then one set for each branch that has not been reached so far.

    `branches.seen` grows between iterations, because the caller renders with it.
    """
    yield {}, "with the examples of parameters, or 1 for numbers"
    remaining = MAX_SAMPLES
    for number, condition in enumerate(template.conditions):
        for outcome in (True, False) if condition.has_else else (True,):
            if (number, outcome) not in branches.seen and remaining:
                remaining -= 1
                yield {**condition.after, number: outcome}, "in a branch that no sample value reaches"


def _described(request: Mapping[str, object]) -> str:
    """Return a request in words."""
    if not request:
        return "a request without parameters"
    shown = ", ".join(f"{n}={_shown(v)}" for n, v in list(request.items())[:MAX_SHOWN])
    return f"a request with {shown}{', …' if len(request) > MAX_SHOWN else ''}"


def _shown(value: Any) -> str:
    return f"'{value}'" if isinstance(value, str) else str(value)
