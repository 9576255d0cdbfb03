"""What changes in one table: its columns, clauses and settings in place, or reasons to rebuild it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from typing import Literal

from engine.plan.alteration_groups import in_groups, mentioned
from engine.plan.loss import widens
from engine.plan.steps import (
    ROWS,
    AddColumn,
    Alteration,
    ChangeClause,
    ChangeColumn,
    DropColumn,
    StoreValues,
    resource_of,
    tenant_of,
)
from engine.project.check_datasource import OWN_SETTINGS
from engine.schema import Column, Name, Table, declared_ttl
from engine.warehouse import ddl


class TableComparison:
    """One table, compared column by column and then by its clauses."""

    def __init__(self, table: Table, current: Table, rows: int, unstored: Callable[[Name], Collection[str]]) -> None:
        """`unstored` finds the columns that some parts of a live table do not have."""
        self._table = table
        self._current = current
        self._rows = rows
        self._unstored = unstored
        self._resource = resource_of(table)
        self._tenant = tenant_of(table)
        self._have = {c.name: c for c in current.columns}
        self._want = {c.name: c for c in table.columns}

    def result(self, *, is_fed: bool, is_log: bool) -> tuple[list[Alteration], list[str]]:
        """The changes in place, in order, and the reasons to rebuild the table instead, if there are any.

        A table that views feed is rebuilt for every change to a type. Others hold their only copy of the rows, so
        their columns are converted or dropped in place.
        """
        keys = _keys(self._table, self._current)
        gone = [n for n in self._have if n not in self._want]
        retyped = [n for n, c in self._want.items() if n in self._have and c.type != self._have[n].type]
        if is_fed and (retyped or gone or keys):
            types = [f"column {n}: {self._have[n].type} → {self._want[n].type}" for n in retyped]
            return [], [*types, *(f"column {n} is gone" for n in gone), *keys]
        # A landing column is added late: together with the views that deliver it.
        changes: list[Alteration] = [
            *self._new_or_redefined(late=is_log and not is_fed),
            *map(self._dropped, gone),
        ]
        changes += map(self._converted, retyped)
        changes += self._clauses()
        return [*self._values(retyped), *in_groups(changes, self._table, self._current)], keys

    def _values(self, retyped: Collection[str]) -> Iterable[Alteration]:
        """Columns whose values in older parts would change, because these parts do not store them."""
        both = [(old, self._want[n]) for n, old in self._have.items() if n in self._want]
        computed = [o.name for o, n in both if _changes_value(o, n, retyped)]
        if not computed or not self._rows:
            return
        missing = self._unstored(self._current.name)
        for column in computed:
            if column in missing:
                reason = "older rows keep its previous values"
                yield StoreValues(self._resource, reason, tenant=self._tenant, name=self._table.name, column=column)

    def _new_or_redefined(self, *, late: bool) -> Iterable[Alteration]:
        """Columns that are added, and columns of the same type with another default or codec."""
        name = self._table.name
        for column in self._want.values():
            old = self._have.get(column.name)
            if old is None:
                yield AddColumn(
                    self._resource, "new column", tenant=self._tenant, name=name, column=column, late=late
                )
            elif old.type == column.type and _definition(old) != _definition(column):
                reason = "default or codec"
                yield ChangeColumn(
                    self._resource,
                    reason,
                    tenant=self._tenant,
                    name=name,
                    column=column,
                    removes=_removed(old, column),
                )

    def _dropped(self, column: str) -> Alteration:
        """Drop a column in place."""
        effect = f"loses its values in {ROWS}"
        step = DropColumn(self._resource, "column is gone", True, effect, self._tenant, self._table.name, column)
        return replace(step, loss="lost" if self._rows else "none", rows=self._rows)

    def _converted(self, column: str) -> Alteration:
        """Convert a column to another type in place."""
        old, new = self._have[column], self._want[column]
        narrower = self._rows > 0 and not widens(old.type, new.type)
        effect = f"converts {ROWS}" + (", and loses values that do not fit the new type" if narrower else "")
        reason = f"type {old.type} → {new.type}"
        step = ChangeColumn(self._resource, reason, True, effect, self._tenant, self._table.name, new, old)
        return replace(step, loss="lost" if narrower else "none", rows=self._rows, removes=_removed(old, new))

    def _clauses(self) -> Iterable[Alteration]:
        """Changes of the TTL, of indexes and of settings."""
        table, current = self._table, self._current
        ttl = declared_ttl(table.ttl)
        # A table that an earlier version created has the declared TTL itself. It stays until the file changes.
        if ttl != declared_ttl(current.ttl):
            effect = "loses rows past the new TTL" if ttl else ""
            step = self._clause("ttl", "", f"TTL {ttl or 'removed'}", ddl.modify_ttl(table.name, table.ttl))
            yield replace(step, destructive=bool(effect), effect=effect, loss="lost" if effect else "none")
        yield from self._indexes()
        have, want = _declared_settings(current), _declared_settings(table)
        for key in sorted(have.keys() | want.keys()):
            if key not in want:
                yield self._clause("setting", key, f"setting {key} removed", ddl.reset_setting(table.name, key))
            elif have.get(key) != want[key]:
                sql = ddl.modify_setting(table.name, key, want[key])
                yield self._clause("setting", key, f"setting {key} = {want[key]}", sql)

    def _indexes(self) -> Iterable[Alteration]:
        """Indexes that are added, removed, or both."""
        name = self._table.name
        have, want = ({i.name: i for i in t.indexes} for t in (self._current, self._table))
        for old in have.values():
            if want.get(old.name) != old:
                yield self._clause("index", old.name, f"index {old.name} removed", ddl.drop_index(name, old.name))
        for new in want.values():
            if have.get(new.name) != new:
                yield self._clause("index", new.name, f"index {new.name} added", ddl.add_index(name, new))

    def _clause(self, kind: Literal["index", "setting", "ttl"], changed: str, reason: str, sql: str) -> ChangeClause:
        return ChangeClause(
            self._resource, reason, tenant=self._tenant, name=self._table.name, sql=sql, kind=kind, changed=changed
        )


def _changes_value(old: Column, new: Column, retyped: Collection[str]) -> bool:
    """Whether a column's value in parts that do not have it would change: the engine computes it from the default and
    the type.
    """
    return old.type != new.type or _default(old) != _default(new) or bool(mentioned(retyped, old.default))


def _default(column: Column) -> tuple[str, str]:
    return (column.default_kind, column.default)


def _removed(old: Column, new: Column) -> tuple[str, ...]:
    """What a column loses: its default or codec."""
    default = old.default_kind if not new.default_kind else ""
    codec = "CODEC" if old.codec and not new.codec else ""
    return tuple(r for r in (default, codec) if r)


def _definition(column: Column) -> tuple[str, str, str, str]:
    """What ALTER TABLE … MODIFY COLUMN sets."""
    return (column.type, column.default_kind, column.default, column.codec)


def _keys(table: Table, current: Table) -> list[str]:
    """What differs in the engine and the keys. None of it can be changed in place."""
    pairs = (
        ("engine", table.engine, current.engine),
        ("sorting key", table.sorting_key, current.sorting_key),
        ("partition key", table.partition_key, current.partition_key),
        ("primary key", table.primary_key, current.primary_key),
        ("sampling key", table.sampling_key, current.sampling_key),
    )
    return [f"{clause}: {old or 'none'} → {new or 'none'}" for clause, new, old in pairs if new != old]


def _declared_settings(table: Table) -> dict[str, str]:
    """The settings of a table that its file declares. The others belong to the stored layout, which pushes keep."""
    return {key: value for key, value in table.settings if key not in OWN_SETTINGS}
