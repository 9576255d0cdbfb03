"""Analysis of a pipe's nodes by the engine, with sample values for the parameters.

All templates of a statement are rendered with one set of values. A parameter about which nothing is known gets a
made-up value. If the engine cannot convert that value, the pipe may still be right, so other values are tried; when
none fits, the result is a warning, not an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from engine.compiler.build_state import BuildState, scratch_database, scratch_table
from engine.compiler.compose import Bounded, Composed
from engine.compiler.pipes import CompiledPipe
from engine.compiler.sample_contexts import SAMPLE_DATE, SAMPLE_DATETIME, SAMPLE_UUID, expected, needs_constant
from engine.compiler.scope import Scope
from engine.errors import SAMPLE, RookeryError
from engine.schema import Column
from engine.template.dry_run import minimal_value, sample_value
from engine.template.environment import Template
from engine.template.parameters import ParameterSpec
from engine.template.values import Binder, Branches

VALUE_ERRORS = frozenset(
    {6, 25, 26, 27, 32, 33, 36, 38, 41, 43, 53, 69, 70, 72, 117, 131, 135, 153, 190, 321, 349, 376, 407, 427, 436}
    | {441, 457, 467, 469, 536, 565, 675, 676, 691, 1000, 1001}
)
"""The engine's numbers of errors that another value of a parameter may not have."""
UNKNOWN_IDENTIFIER = 47
SAMPLE_TEXTS = (SAMPLE_DATE, SAMPLE_DATETIME, "1", "UTC", "day", SAMPLE_UUID, "127.0.0.1", "true", "{}", "a")
SAMPLE_NUMBERS = (0, 2, 3, 7, 10, 60, 100, 1000, 12, 1)
MAX_TRIED_COLUMNS = 24
"""Most columns that are tried for a parameter that names one."""
_PLACEHOLDER = re.compile(r"\{(p[0-9]+):([^{}]*)\}")


class UncheckedError(RookeryError):
    """No sample value was found with which the engine takes a node."""


@dataclass(slots=True)
class Values:
    """The values of one dry run: what a caller would send, and what is taken for parameters that must be there.

    `free` are those that no author wrote; other values may replace them.
    """

    request: dict[str, object]
    fallback: dict[str, object]
    free: frozenset[str]

    def but(self, other: Mapping[str, object]) -> Values:
        """The same with other values of some parameters."""
        request = {n: other.get(n, v) for n, v in self.request.items()}
        return replace(self, request=request, fallback={**self.fallback, **other})


def all_given(
    specs: Mapping[str, ParameterSpec], identifiers: frozenset[str], columns: Iterable[str], *, plainly: bool = False
) -> Values:
    """Every parameter has a value: an example or a likely one, or `plainly` the default or an empty one.

    Defaults are free, since a caller who sends the parameter sends something else.
    """
    listed = sorted(columns)
    values = {n: (minimal_value if plainly else sample_value)(s, identifiers, listed) for n, s in specs.items()}
    free = frozenset(n for n, s in specs.items() if s.example is None and not s.enum)
    return Values(values, values, free)


def none_given(specs: Mapping[str, ParameterSpec], declared: Mapping[str, ParameterSpec], given: Values) -> Values:
    """Only what must be there has a value."""
    request = {n: s.default for n, s in declared.items() if s.default is not None}
    free = frozenset(n for n in given.free if specs[n].default is None)
    return Values(dict(request), given.fallback, free)


def specs_of(pipes: Iterable[CompiledPipe]) -> dict[str, ParameterSpec]:
    """What is known of each parameter of some pipes, from wherever it is said."""
    found: dict[str, ParameterSpec] = {}
    for pipe in pipes:
        for spec in (*pipe.parameters, *(s for n in pipe.nodes for s in n.template.parameters)):
            known = found.setdefault(spec.name, spec)
            said = {k: getattr(spec, k) for k in ("default", "example", "enum") if getattr(known, k) is None}
            found[spec.name] = replace(known, **said)
    return found


def identifiers_of(pipes: Iterable[CompiledPipe]) -> frozenset[str]:
    """Parameters that name columns."""
    return frozenset(i for p in pipes for n in p.nodes for i in n.template.identifiers)


@dataclass(slots=True)
class DryRun:
    """The nodes of one pipe, analysed with one set of values; what has worked for a node is kept for the next."""

    state: BuildState
    pipe: CompiledPipe
    values: Values
    plain: Values
    specs: Mapping[str, ParameterSpec]
    identifiers: frozenset[str]
    outputs: dict[str, tuple[Column, ...]] = field(default_factory=dict)
    doubts: dict[str, RookeryError] = field(default_factory=dict)
    """Warnings by node: what fails with likely values, but not with plain ones."""

    def describe(self, node: str) -> tuple[Column, ...]:
        """Output columns of a node. Raises the engine's error, or UncheckedError when it may only be the sample's."""
        try:
            found = self._ask(node, self.values)
        except RookeryError as exc:
            found = self._plainly(node, exc) or self._otherwise(node, exc)
        self.outputs[node] = found
        return found

    def _plainly(self, node: str, first: RookeryError) -> tuple[Column, ...] | None:
        """The same with defaults and empty values, where that is possible; then the error is only a warning."""
        try:
            found = self._ask(node, self.plain)
        except RookeryError:
            return None
        exampled = [n for n, s in self.specs.items() if s.example is not None]
        if getattr(first, "engine_code", None) not in VALUE_ERRORS or exampled:
            text = f"node `{node}` fails with the examples of parameters, or with 1 for numbers: {first.message}"
            hint = "correct the node, or the example"
            self.doubts[node] = RookeryError(SAMPLE, text, hint=hint, detail=first.detail)
        return found

    def _otherwise(self, node: str, first: RookeryError) -> tuple[Column, ...]:
        """Analyze the node again with other values for the free parameters."""
        used = self._used(node)
        naming = self.identifiers & used.keys()
        code = getattr(first, "engine_code", None)
        if not used or code is None or (code not in VALUE_ERRORS and not naming):
            raise first
        errors = [first]
        for values in self._fitted(node, used, naming):
            if found := self._tried(node, values, errors):
                return found
        blank = self._blank(node, used)
        if isinstance(blank, tuple):
            return blank
        for values in self._guessed(node, used, naming):
            if found := self._tried(node, values, errors):
                return found
        raise self._verdict(node, sorted(used), errors, blank, certain=bool(naming))

    def _tried(self, node: str, values: Values, errors: list[RookeryError]) -> tuple[Column, ...] | None:
        """The node with other values, which are kept if they do; an error is noted if they do not."""
        try:
            found = self._ask(node, values)
        except RookeryError as exc:
            errors.append(exc)
            return None
        self.values = values
        return found

    def _verdict(
        self, node: str, used: list[str], errors: list[RookeryError], blank: RookeryError, *, certain: bool
    ) -> RookeryError:
        """Whose mistake it is that no value suits: an error that does not depend on the values is the author's."""
        identities = [_identity(e) for e in errors]
        if certain or _identity(blank) in identities or len(set(identities)) == 1:
            # A name that is unknown whichever column stands there says most.
            common = max(
                identities, key=lambda i: (i[0] == UNKNOWN_IDENTIFIER, i == _identity(blank), identities.count(i))
            )
            return errors[identities.index(common)]
        names = ", ".join(f"`{n}`" for n in used)
        return UncheckedError(
            SAMPLE,
            f"node `{node}` was not checked, since no sample value of {names} suits it: {errors[0].message}",
            hint="give an example that does: {{ String(name, example='2024-01-31') }}",
            detail=errors[0].detail,
        )

    def _ask(self, node: str, values: Values) -> tuple[Column, ...]:
        composed = self._composed(node, values)
        return self._described(composed, composed.sql)

    def _described(self, composed: Composed, sql: str) -> tuple[Column, ...]:
        tables = [scratch_table(self.state, n) for n in sorted(composed.relations)]
        return self.state.analyser.describe(sql, composed.bindings, tables)

    def _composed(self, node: str, values: Values) -> Composed:
        def render(template: Template, binder: Binder, columns: frozenset[str]) -> str:
            return template.dry_run(values.request, values.fallback, binder, columns, Branches())

        scope = Scope(scratch_database(self.state.workspace), unrestricted=True)
        # What is deployed keeps working; the next push says what is too complex.
        bounded: Bounded = "none" if self.state.tolerated is None else "all"
        return self.state.composer.request(self.state, self.pipe.name, render, scope, upto=node, bounded=bounded)

    def _used(self, node: str) -> dict[str, frozenset[str]]:
        """Free parameters that matter to a node, with the placeholders whose values depend on them."""
        before = self._composed(node, self.values)
        found: dict[str, frozenset[str]] = {}
        for name in sorted(self.values.free):
            try:
                after = self._composed(node, self.values.but({name: self._another(name)}))
            except RookeryError:
                continue
            changed = frozenset(n for n, v in after.bindings.items() if before.bindings.get(n) != v)
            if changed or after.sql != before.sql:
                found[name] = changed if after.sql == before.sql else frozenset()
        return found

    def _another(self, name: str) -> object:
        type = self.specs[name].type
        if name in self.identifiers:
            return max(self.pipe.columns, default="")
        if "Date" in type:
            return (
                "2020-02-02"
                if type.removeprefix("Array(").startswith("Date)") or type == "Date"
                else SAMPLE_DATETIME[:-1] + "1"
            )
        return "5" if type not in ("Bool", "Array(Bool)") else "true"

    def _fitted(self, node: str, used: Mapping[str, frozenset[str]], naming: frozenset[str]) -> Iterator[Values]:
        """Texts by where they stand, and columns for parameters that name one."""
        fitting = self._fitting(node, used)
        for column in self._columns(node) if naming else ():
            yield self.values.but({**fitting, **dict.fromkeys(naming, column)})
        if fitting:
            yield self.values.but(fitting)

    def _guessed(self, node: str, used: Mapping[str, frozenset[str]], naming: frozenset[str]) -> Iterator[Values]:
        """Any texts and numbers where nothing tells what is wanted."""
        fitting = self._fitting(node, used)
        texts = [n for n in used if self._is(n, "String") and n not in naming and n not in fitting]
        numbers = [n for n in used if self._is(n, "Int", "UInt", "Float", "Decimal")]
        for text, number in zip(SAMPLE_TEXTS, SAMPLE_NUMBERS, strict=True) if texts or numbers else ():
            yield self.values.but({**fitting, **dict.fromkeys(texts, text), **dict.fromkeys(numbers, number)})

    def _is(self, name: str, *types: str) -> bool:
        return self.specs[name].type.removeprefix("Array(").startswith(types)

    def _fitting(self, node: str, used: Mapping[str, frozenset[str]]) -> dict[str, object]:
        """Texts that suit the places where parameters stand."""
        tree = self.state.composer.verifier.tree(self._composed(node, self.values).sql)
        types = {c.name: c.type for r in self.pipe.datasources for c in self.state.datasources[r].columns}
        types |= {c.name: c.type for found in self.outputs.values() for c in found}
        places = expected(tree, types)
        return {
            name: next(places[p] for p in sorted(placeholders) if p in places)
            for name, placeholders in used.items()
            if self._is(name, "String") and not placeholders.isdisjoint(places)
        }

    def _columns(self, node: str) -> list[str]:
        """Columns that a node may name, those of what it reads first, and of each type one before the others."""
        found: dict[str, str] = {}
        compiled = self.pipe.node(node)
        for read in sorted(compiled.reads) if compiled else ():
            if read in self.state.datasources:
                found |= {c.name: c.type for c in self.state.datasources[read].columns}
            else:
                found |= {c.name: c.type for c in (*self.outputs.get(read, ()), *self.state.outputs.get(read, ()))}
        firsts = {type: name for name, type in reversed(found.items())}
        listed = [*firsts.values(), *found, *sorted(self.pipe.columns)]
        return [n for n in dict.fromkeys(listed) if n in self.pipe.columns][:MAX_TRIED_COLUMNS]

    def _blank(self, node: str, used: Mapping[str, frozenset[str]]) -> tuple[Column, ...] | RookeryError:
        """The same with texts unknown to the engine, wherever it need not know them."""
        fitting = self._fitting(node, used)
        texts = {n for n in used if self._is(n, "String") and not needs_constant(str(fitting.get(n, "")))}
        placeholders = {p for n in texts for p in used[n]}
        try:
            composed = self._composed(node, self.values.but(fitting))

            def unknown(found: re.Match[str]) -> str:
                return f"materialize({found[0]})" if found[1] in placeholders else found[0]

            return self._described(composed, _PLACEHOLDER.sub(unknown, composed.sql))
        except RookeryError as exc:
            return exc


def _identity(exc: RookeryError) -> tuple[Any, str]:
    return getattr(exc, "engine_code", None), exc.message
