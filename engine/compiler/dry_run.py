"""Analyzes a pipe's nodes with the engine, using sample values for the parameters.

All templates of a statement are rendered with one set of values. A parameter without a default or example gets a
made-up value. If the engine cannot convert that value, the pipe may still be correct, so other values are tried. If
none works, the result is a warning and not an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from engine.compiler.build_state import BuildState, scratch_database, scratch_table
from engine.compiler.compose import Caller, Composed, SizeCheck
from engine.compiler.pipes import CompiledPipe
from engine.compiler.sample_contexts import SAMPLE_DATE, SAMPLE_DATETIME, SAMPLE_UUID, fitting_texts, needs_constant
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
"""Error numbers of the engine for errors that another value of a parameter may avoid."""
UNKNOWN_IDENTIFIER = 47
SAMPLE_TEXTS = (SAMPLE_DATE, SAMPLE_DATETIME, "1", "UTC", "day", SAMPLE_UUID, "127.0.0.1", "true", "{}", "a")
SAMPLE_NUMBERS = (0, 2, 3, 7, 10, 60, 100, 1000, 12, 1)
MAX_TRIED_COLUMNS = 24
"""Maximum number of columns that are tried for a parameter that names a column."""
_PLACEHOLDER = re.compile(r"\{(p[0-9]+):([^{}]*)\}")


class UncheckedError(RookeryError):
    """The engine refuses a node with every sample value that was tried."""


@dataclass(slots=True)
class Values:
    """The parameter values of one dry run."""

    request: dict[str, object]
    """The values that a caller would send."""
    fallback: dict[str, object]
    """The values of parameters that a template requires but `request` lacks."""
    free: frozenset[str]
    """Parameters whose value is made up, so that other values may be tried."""

    def replaced(self, other: Mapping[str, object]) -> Values:
        """A copy with other values for some parameters."""
        request = {n: other.get(n, v) for n, v in self.request.items()}
        return replace(self, request=request, fallback={**self.fallback, **other})


def all_parameters(
    specs: Mapping[str, ParameterSpec], identifiers: frozenset[str], columns: Iterable[str], *, plainly: bool = False
) -> Values:
    """Values for all parameters: the example or a likely value, or with `plainly` the default or an empty value.

    Parameters with a default are free too, because a caller may send another value.
    """
    listed = sorted(columns)
    values = {n: (minimal_value if plainly else sample_value)(s, identifiers, listed) for n, s in specs.items()}
    free = frozenset(n for n, s in specs.items() if s.example is None and not s.enum)
    return Values(values, values, free)


def required_parameters(
    specs: Mapping[str, ParameterSpec], declared: Mapping[str, ParameterSpec], all_values: Values
) -> Values:
    """Values for the required parameters only. Others have their declared default, if there is one."""
    request = {n: s.default for n, s in declared.items() if s.default is not None}
    free = frozenset(n for n in all_values.free if specs[n].default is None)
    return Values(dict(request), all_values.fallback, free)


def specs_of(pipes: Iterable[CompiledPipe]) -> dict[str, ParameterSpec]:
    """Parameter → its specification, merged from all templates and declarations of some pipes."""
    specs: dict[str, ParameterSpec] = {}
    for pipe in pipes:
        for spec in (*pipe.parameters, *(s for n in pipe.nodes for s in n.template.parameters)):
            known = specs.setdefault(spec.name, spec)
            missing = {k: getattr(spec, k) for k in ("default", "example", "enum") if getattr(known, k) is None}
            specs[spec.name] = replace(known, **missing)
    return specs


def identifiers_of(pipes: Iterable[CompiledPipe]) -> frozenset[str]:
    """The parameters that name columns."""
    return frozenset(i for p in pipes for n in p.nodes for i in n.template.identifiers)


@dataclass(slots=True)
class DryRun:
    """Analyzes the nodes of one pipe in order. Values that work for one node are kept for the next."""

    state: BuildState
    pipe: CompiledPipe
    values: Values
    """The current values, initially likely ones."""
    plain: Values
    """Defaults and empty values."""
    specs: Mapping[str, ParameterSpec]
    """Parameter → its specification, merged from all pipes that are read."""
    identifiers: frozenset[str]
    """The parameters that name columns."""
    outputs: dict[str, tuple[Column, ...]] = field(default_factory=dict)
    """Node → its output columns, once analyzed."""
    doubts: dict[str, RookeryError] = field(default_factory=dict)
    """Node → a warning, if the node fails with likely values but not with plain ones."""

    def describe(self, node: str) -> tuple[Column, ...]:
        """The output columns of a node. Raises the engine's error, or UncheckedError if the samples may be wrong."""
        try:
            columns = self._analyze(node, self.values)
        except RookeryError as exc:
            columns = self._with_plain_values(node, exc) or self._with_other_values(node, exc)
        self.outputs[node] = columns
        return columns

    def _with_plain_values(self, node: str, first: RookeryError) -> tuple[Column, ...] | None:
        """Analyze the node with plain values. Returns None if that fails; otherwise the first error becomes a
        warning.
        """
        try:
            columns = self._analyze(node, self.plain)
        except RookeryError:
            return None
        exampled = [n for n, s in self.specs.items() if s.example is not None]
        if getattr(first, "engine_code", None) not in VALUE_ERRORS or exampled:
            text = (
                f"node `{node}` fails with the examples of its parameters, or "
                f"with 1 as the value of numbers: {first.message}"
            )
            hint = "correct the node, or the example"
            self.doubts[node] = RookeryError(SAMPLE, text, hint=hint, detail=first.detail)
        return columns

    def _with_other_values(self, node: str, first: RookeryError) -> tuple[Column, ...]:
        """Analyze the node again with other values for the free parameters."""
        used = self._used_parameters(node)
        column_parameters = self.identifiers & used.keys()
        code = getattr(first, "engine_code", None)
        if not used or code is None or (code not in VALUE_ERRORS and not column_parameters):
            raise first
        errors = [first]
        # The cheapest and most likely values come first: strings that fit their context, then strings that the engine
        # cannot see, and finally guesses.
        for values in self._fitting_values(node, used, column_parameters):
            if columns := self._try(node, values, errors):
                return columns
        unknown_strings = self._with_unknown_strings(node, used)
        if isinstance(unknown_strings, tuple):
            return unknown_strings
        for values in self._guessed_values(node, used, column_parameters):
            if columns := self._try(node, values, errors):
                return columns
        raise self._failure(node, sorted(used), errors, unknown_strings, certain=bool(column_parameters))

    def _try(self, node: str, values: Values, errors: list[RookeryError]) -> tuple[Column, ...] | None:
        """Analyze the node with other values. Keeps them if they work; otherwise adds the error and returns None."""
        try:
            columns = self._analyze(node, values)
        except RookeryError as exc:
            errors.append(exc)
            return None
        self.values = values
        return columns

    def _failure(
        self, node: str, used: list[str], errors: list[RookeryError], unknown_strings: RookeryError, *, certain: bool
    ) -> RookeryError:
        """The error to raise if no value works. If all values cause the same error, the pipe is wrong."""
        identities = [_identity(e) for e in errors]
        if certain or _identity(unknown_strings) in identities or len(set(identities)) == 1:
            # Prefer an unknown identifier: it is the most informative error.
            common = max(
                identities,
                key=lambda i: (i[0] == UNKNOWN_IDENTIFIER, i == _identity(unknown_strings), identities.count(i)),
            )
            return errors[identities.index(common)]
        names = ", ".join(f"`{n}`" for n in used)
        return UncheckedError(
            SAMPLE,
            f"node `{node}` was not checked, because no sample value of {names} works: {errors[0].message}",
            hint="write an example that works: {{ String(name, example='2024-01-31') }}",
            detail=errors[0].detail,
        )

    def _analyze(self, node: str, values: Values) -> tuple[Column, ...]:
        """The output columns of a node with these values. Raises the engine's error."""
        composed = self._composed(node, values)
        return self._described(composed, composed.sql)

    def _described(self, composed: Composed, sql: str) -> tuple[Column, ...]:
        """The output columns of some SQL with the bindings and tables of a composed statement."""
        tables = [scratch_table(self.state, n) for n in sorted(composed.relations)]
        return self.state.analyser.describe(sql, composed.bindings, tables)

    def _composed(self, node: str, values: Values) -> Composed:
        """The statement for a node with these values, over the empty tables of the scratch database."""

        def render(template: Template, binder: Binder, columns: frozenset[str]) -> str:
            return template.dry_run(values.request, values.fallback, binder, columns, Branches())

        # The tables in the scratch database are empty, so that no row of a tenant is read.
        scope = Scope(scratch_database(self.state.workspace), unrestricted=True)
        # Deployed pipes keep working. The next push refuses those that are too complex.
        size_check: SizeCheck = "none" if self.state.tolerated is None else "all"
        return self.state.composer.request(
            self.state, self.pipe.name, Caller(render, scope), upto=node, size_check=size_check
        )

    def _used_parameters(self, node: str) -> dict[str, frozenset[str]]:
        """The free parameters that affect a node → the placeholders whose values depend on them.

        The set is empty if the parameter changes the SQL itself.
        """
        before = self._composed(node, self.values)
        used: dict[str, frozenset[str]] = {}
        for name in sorted(self.values.free):
            try:
                after = self._composed(node, self.values.replaced({name: self._other_value(name)}))
            except RookeryError:
                continue
            changed = frozenset(n for n, v in after.bindings.items() if before.bindings.get(n) != v)
            if changed or after.sql != before.sql:
                used[name] = changed if after.sql == before.sql else frozenset()
        return used

    def _other_value(self, name: str) -> object:
        """A value of the parameter's type that differs from the sample."""
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

    def _fitting_values(
        self, node: str, used: Mapping[str, frozenset[str]], column_parameters: frozenset[str]
    ) -> Iterator[Values]:
        """Yield values that fit the contexts of the placeholders, and columns for parameters that name one."""
        fitting = self._fitting(node, used)
        for column in self._columns(node) if column_parameters else ():
            yield self.values.replaced({**fitting, **dict.fromkeys(column_parameters, column)})
        if fitting:
            yield self.values.replaced(fitting)

    def _guessed_values(
        self, node: str, used: Mapping[str, frozenset[str]], column_parameters: frozenset[str]
    ) -> Iterator[Values]:
        """Yield arbitrary strings and numbers, for parameters whose context is unknown."""
        fitting = self._fitting(node, used)
        texts = [n for n in used if self._has_type(n, "String") and n not in column_parameters and n not in fitting]
        numbers = [n for n in used if self._has_type(n, "Int", "UInt", "Float", "Decimal")]
        for text, number in zip(SAMPLE_TEXTS, SAMPLE_NUMBERS, strict=True) if texts or numbers else ():
            yield self.values.replaced({**fitting, **dict.fromkeys(texts, text), **dict.fromkeys(numbers, number)})

    def _has_type(self, name: str, *types: str) -> bool:
        """Whether a parameter, or an element of it, has one of these types."""
        return self.specs[name].type.removeprefix("Array(").startswith(types)

    def _fitting(self, node: str, used: Mapping[str, frozenset[str]]) -> dict[str, object]:
        """Parameter → a string that fits the context of its placeholder."""
        tree = self.state.composer.verifier.tree(self._composed(node, self.values).sql)
        types = {c.name: c.type for r in self.pipe.datasources for c in self.state.datasources[r].columns}
        types |= {c.name: c.type for columns in self.outputs.values() for c in columns}
        places = fitting_texts(tree, types)
        return {
            name: next(places[p] for p in sorted(placeholders) if p in places)
            for name, placeholders in used.items()
            if self._has_type(name, "String") and not placeholders.isdisjoint(places)
        }

    def _columns(self, node: str) -> list[str]:
        """Columns that a node may name, most likely ones first: those of the tables that it reads, beginning with one
        of each type.
        """
        types: dict[str, str] = {}
        compiled = self.pipe.node(node)
        for read in sorted(compiled.reads) if compiled else ():
            if read in self.state.datasources:
                types |= {c.name: c.type for c in self.state.datasources[read].columns}
            else:
                types |= {c.name: c.type for c in (*self.outputs.get(read, ()), *self.state.outputs.get(read, ()))}
        firsts = {type: name for name, type in reversed(types.items())}
        candidates = [*firsts.values(), *types, *sorted(self.pipe.columns)]
        return [n for n in dict.fromkeys(candidates) if n in self.pipe.columns][:MAX_TRIED_COLUMNS]

    def _with_unknown_strings(
        self, node: str, used: Mapping[str, frozenset[str]]
    ) -> tuple[Column, ...] | RookeryError:
        """Analyze the node with string values that the engine cannot see while it plans.

        `materialize()` hides the value wherever the engine does not need a constant. Returns an error of the engine.
        """
        fitting = self._fitting(node, used)
        texts = {n for n in used if self._has_type(n, "String") and not needs_constant(str(fitting.get(n, "")))}
        placeholders = {p for n in texts for p in used[n]}
        try:
            composed = self._composed(node, self.values.replaced(fitting))

            def unknown(match: re.Match[str]) -> str:
                return f"materialize({match[0]})" if match[1] in placeholders else match[0]

            return self._described(composed, _PLACEHOLDER.sub(unknown, composed.sql))
        except RookeryError as exc:
            return exc


def _identity(exc: RookeryError) -> tuple[Any, str]:
    """What makes two errors equal: the engine's number and the message."""
    return getattr(exc, "engine_code", None), exc.message
