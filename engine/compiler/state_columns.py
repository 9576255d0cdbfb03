"""Warns of endpoints that return states of aggregate functions: bytes that only the engine can read."""

from __future__ import annotations

from engine.compiler.build_state import BuildState
from engine.compiler.pipes import CompiledPipe
from engine.errors import RAW_STATE, RookeryError
from engine.project.expressions import split_list
from engine.schema import Column

_STATE = "AggregateFunction("


def warn_of_raw_states(state: BuildState, pipe: CompiledPipe) -> None:
    """Warn of the first such column of an endpoint, unless other pipes read it and may merge the states."""
    columns = [c for c in state.outputs[pipe.name] if _holds_state(c.type)]
    if not columns or any(pipe.name in other.reads for other in state.pipes.values()):
        return
    state.warnings.append(
        RookeryError(
            RAW_STATE,
            f"endpoint `{pipe.name}` returns a state of an aggregate function, not its value: `{columns[0].name}`",
            hint=f"merge the states with GROUP BY: {_merged(columns[0])}",
            place=pipe.place,
        )
    )


def _holds_state(type: str) -> bool:
    return _STATE in type.replace(f"Simple{_STATE}", "")


def _merged(column: Column) -> str:
    """The call that returns the value of a column's states."""
    if not column.type.startswith(_STATE):
        return "use the combinator -Merge"
    # A type may have the version of the state before the function.
    function = next(part for part in split_list(column.type[len(_STATE) : -1]) if not part.isdigit())
    name, bracket, parameters = function.partition("(")
    return f"{name}Merge{bracket}{parameters}({column.name})"
