"""Calls pipes of the scratch workspace, for the first rows of their results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cli.dev.inputs import Choices
from cli.dev.scratch import State
from cli.testing.model import Answer, Call
from engine.compiler.build import Build, parameters_of
from engine.compiler.pipes import CompiledPipe
from engine.errors import MISSING_PARAMETER, Place, RookeryError
from engine.schema import quote

_NO_EXAMPLE = "give it an example, such as {{ Date(day, example='2026-01-31') }}"
_NO_TENANT = "--tenant selects the tenant"


@dataclass(frozen=True, slots=True)
class Preview:
    """The result of a pipe."""

    pipe: CompiledPipe
    call: Call
    tenant: str | None
    answer: Answer
    """The first rows, or the error of the call."""
    rows: int
    """Number of rows of the whole result."""

    @property
    def target(self) -> str | None:
        """The datasource whose rows are shown, for a materialized pipe."""
        return self.pipe.target.name if self.pipe.target else None


def preview(state: State, name: str, choices: Choices) -> Preview:
    """The result of a pipe: an endpoint is called with example values; of a materialized pipe, the target is read."""
    pipe = state.build.pipes[name]
    arguments = examples(state.build, name)
    if pipe.kind == "endpoint":
        call = Call(name, None, arguments)
        answer = state.workspace.call(call, choices.tenant)
        first = Answer(answer.columns, answer.rows[: choices.rows], answer.error, answer.seconds)
        return Preview(pipe, call, choices.tenant, first, len(answer.rows))
    columns, source = _source(state.build, pipe)
    count = state.workspace.call(Call(None, f"SELECT count() AS rows FROM {source}", arguments), choices.tenant)
    call = Call(None, f"SELECT {columns} FROM {source} LIMIT {choices.rows}", arguments)
    answer = state.workspace.call(call, choices.tenant) if count.error is None else count
    rows = int(count.rows[0]["rows"]) if count.rows else 0
    return Preview(pipe, call, choices.tenant, answer, rows)


def _source(build: Build, pipe: CompiledPipe) -> tuple[str, str]:
    """The columns to select and what to select them from, as SQL: a pipe, or the merged rows of a target."""
    if pipe.target is None:
        return "*", quote(pipe.name)
    target, relation = build.datasources[pipe.target.name], build.relations[pipe.target.name]
    # Stored states are binary; finalizeAggregation turns each into the value of its aggregate.
    columns = [
        f"finalizeAggregation({name}) AS {name}" if type.startswith("AggregateFunction(") else name
        for name, type in zip(map(quote, relation.columns), relation.types, strict=True)
    ]
    # Engines merge rows at a time of their own choosing. FINAL shows what will be left.
    merged = " FINAL" if target.engine.type != "MergeTree" else ""
    return ", ".join(columns), f"{quote(target.name)}{merged}"


def examples(build: Build, name: str) -> Mapping[str, str | list[str]]:
    """The example values of a pipe's parameters. The others keep their defaults."""
    values = {}
    for spec in parameters_of(build.pipes, name):
        if spec.tenant_key:
            continue
        value = spec.example
        if value is None and spec.default is None and spec.required and spec.enum:
            value = spec.enum[0]
        if value is not None:
            values[spec.name] = [_text(item) for item in value] if isinstance(value, list | tuple) else _text(value)
    return values


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def problem_of(preview: Preview) -> RookeryError | None:
    """The error of a call, with a place in the pipe's file; None if it succeeded."""
    error = preview.answer.error
    if error is None:
        return None
    node = preview.pipe.node(preview.pipe.published)
    own = node.place if node else preview.pipe.place
    hint = error.hint
    if error.code.id == MISSING_PARAMETER.id:
        selects_tenant = preview.pipe.tenant_keys and preview.tenant is None
        hint = _NO_TENANT if selects_tenant else _NO_EXAMPLE
    return RookeryError(error.code, error.message, hint=hint, place=position(str(error.place or "")) or own)


def position(text: str) -> Place | None:
    """The position that begins a place as text, such as `pipes/usage.yaml:3:5, node day`; None without one."""
    head, _, part = text.partition(", ")
    file, *numbers = head.rsplit(":", 2)
    if not file.endswith(".yaml") or not numbers or not all(n.isdecimal() for n in numbers):
        return None
    line, column = [*map(int, numbers), None][:2]
    return Place(file, line, column, part or None)
