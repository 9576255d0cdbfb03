"""Groups the changes to a table that depend on one another, so that each group runs as one statement.

The engine examines the result of a statement: a default, the TTL or an index may use a column that the same statement
adds or converts. Made one after the other, such changes may be possible in no order. Columns are dropped afterwards,
because the engine refuses to drop a column while another one uses it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import TypeVar

from engine.plan.steps import (
    AddColumn,
    Alteration,
    ChangeClause,
    ChangeColumn,
    DropColumn,
    RemoveDefault,
    Step,
    StoreValues,
)
from engine.schema import Name, Table
from engine.warehouse import ddl

_WORD = re.compile(r"[A-Za-z0-9_]+")
S = TypeVar("S", bound=Step)
_Member = tuple[str, str]
"""What a change is about: the kind (`column`, `index`, `setting` or `ttl`) and the name."""


def in_groups(changes: Sequence[Alteration], table: Table, current: Table) -> Iterator[Alteration]:
    """The changes that turn `current` into `table`, with their groups, in the order of the statements."""
    members = [_member(change) for change in changes]
    expressions = [*_expressions(table), *_expressions(current)]
    for number, group in enumerate(_connected(members, expressions), 1):
        yield from _group(number, [c for c, m in zip(changes, members, strict=True) if m in group], current)


def statements(steps: Iterable[S]) -> Iterator[Sequence[S]]:
    """The steps that run together: consecutive ones of a group, and each of the others alone."""
    for group, members in groupby(steps, key=lambda s: (s.name, s.group) if isinstance(s, Alteration) else None):
        together = list(members)
        yield from [together] if group and group[1] else ([step] for step in together)


def statement(steps: Iterable[Step], name: Name) -> str:
    """The statement of a change, or of the changes of a group, for the table `name`, which may be a copy."""
    return ddl.alter(name, [_alter(step, name) for step in steps])


def mentioned(names: Collection[str], expression: str) -> set[str]:
    """Those of the names of columns that an expression uses, and possibly others that its text contains."""
    return {*names}.intersection(_WORD.findall(expression))


def _alter(step: Step, name: Name) -> str:
    if isinstance(step, AddColumn):
        return ddl.add_column(name, step.column)
    if isinstance(step, ChangeColumn):
        return ddl.modify_column(name, step.column, step.removes)
    if isinstance(step, RemoveDefault):
        return ddl.remove(name, step.column, ddl.DEFAULT)
    if isinstance(step, StoreValues):
        return ddl.store_values(name, step.column)
    if isinstance(step, DropColumn):
        return ddl.drop_column(name, step.column)
    if isinstance(step, ChangeClause):
        return step.sql.replace(step.name.sql(), name.sql(), 1)
    raise TypeError(f"no statement for {step!r}")


def _member(change: Alteration) -> _Member:
    if isinstance(change, AddColumn | ChangeColumn):
        return ("column", change.column.name)
    if isinstance(change, DropColumn):
        return ("column", change.column)
    assert isinstance(change, ChangeClause)
    return (change.kind, change.changed)


def _expressions(table: Table) -> Iterator[tuple[_Member, str]]:
    """Each expression of a table, with what it belongs to."""
    yield from ((("column", c.name), c.default) for c in table.columns if c.default)
    yield from ((("index", i.name), i.expression) for i in table.indexes)
    yield from ((("constraint", name), expression) for name, expression in table.constraints)
    yield ("ttl", ""), table.ttl


def _connected(members: Collection[_Member], expressions: Iterable[tuple[_Member, str]]) -> list[set[_Member]]:
    """The members in sets. Members of different sets have nothing to do with one another."""
    columns = {name for kind, name in members if kind == "column"}
    groups = [{member} for member in dict.fromkeys(members)]
    for owner, expression in expressions:
        used = {owner, *(("column", name) for name in mentioned(columns, expression))}
        connected = [g for g in groups if g & used]
        if len(connected) > 1:
            groups = [*(g for g in groups if not g & used), set().union(*connected)]
    return groups


def _group(number: int, changes: Sequence[Alteration], current: Table) -> Iterator[Alteration]:
    """The changes of a group in order: those of one statement, then the columns to drop."""
    drops = [c for c in changes if isinstance(c, DropColumn)]
    together = [*_released(drops, changes, current), *(c for c in changes if not isinstance(c, DropColumn))]
    # Rows that arrive after such a default is gone would get another value in the dropped column.
    late = any(c.late for c in together) or len(together) + len(drops) > len(changes)
    for change in sorted(together, key=_rank):
        yield replace(change, group=number if len(together) > 1 else 0, late=late)
    dropped = [d.column for d in drops]
    for change in together:
        if isinstance(change, ChangeColumn) and ddl.DEFAULT in change.removes and change.column.name not in dropped:
            yield RemoveDefault(
                change.resource,
                "default removed",
                tenant=change.tenant,
                name=change.name,
                column=change.column.name,
                late=late,
            )
    yield from drops


def _released(drops: Iterable[DropColumn], changes: Iterable[Alteration], current: Table) -> Iterator[ChangeColumn]:
    """Columns to drop whose defaults use columns that are converted or dropped as well: they lose their defaults."""
    columns = [_member(c)[1] for c in changes if isinstance(c, ChangeColumn | DropColumn)]
    for drop in drops:
        column = current.column(drop.column)
        if column is not None and mentioned(columns, column.default):
            bare = replace(column, default_kind="", default="")
            reason = "its default uses changed columns"
            yield ChangeColumn(
                drop.resource, reason, tenant=drop.tenant, name=drop.name, column=bare, removes=(column.default_kind,)
            )


def _rank(change: Alteration) -> int:
    """The place of a change in the statement. A list follows MODIFY TTL, so it comes last."""
    if isinstance(change, ChangeClause):
        return 4 if change.kind == "ttl" else 0 if "DROP INDEX" in change.sql else 3
    return 1 if isinstance(change, ChangeColumn) else 2
