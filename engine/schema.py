"""What exists in ClickHouse, as values.

Desired state (compiled from files) and live state (read from the catalogue) are the same types, so a plan is a
comparison of two values.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

MARK_KEY = "rookery"
MAX_DATABASE = 100
"""Longest database name we create, in bytes; the engine's limit is 245 less the table's name."""


@dataclass(frozen=True, slots=True, order=True)
class Name:
    """A table or view: database and name, both unescaped."""

    database: str
    name: str

    def sql(self) -> str:
        return f"{quote(self.database)}.{quote(self.name)}"

    def __str__(self) -> str:
        return f"{self.database}.{self.name}"


@dataclass(frozen=True, slots=True)
class Column:
    """A column as the engine spells it. `default_kind` is '', DEFAULT, MATERIALIZED or ALIAS."""

    name: str
    type: str
    default_kind: str = ""
    default: str = ""
    codec: str = ""
    comment: str = ""

    @property
    def hidden(self) -> bool:
        return self.name.startswith("_rk_")


@dataclass(frozen=True, slots=True)
class Mark:
    """Our mark on an object, kept as its JSON comment. Only marked objects are ever changed."""

    workspace: str
    resource: str
    kind: str
    tenant: str | None = None
    fingerprint: str = ""
    description: str = ""
    fed: tuple[str, ...] = ()
    """Of a table: the views that have delivered into it, whether they still stand or not."""
    without: tuple[str, ...] = ()
    """Of a view that others share: tenants whose rows it leaves out, since it fails on them."""

    def text(self) -> str:
        body: dict[str, Any] = {
            MARK_KEY: 1,
            "workspace": self.workspace,
            "resource": self.resource,
            "kind": self.kind,
        }
        if self.tenant is not None:
            body["tenant"] = self.tenant
        if self.fingerprint:
            body["fingerprint"] = self.fingerprint
        if self.description:
            body["description"] = self.description
        if self.fed:
            body["fed"] = list(self.fed)
        if self.without:
            body["without"] = list(self.without)
        return json.dumps(body, ensure_ascii=False, sort_keys=True)

    @staticmethod
    def read(comment: str) -> Mark | None:
        """The mark in a comment, or None when the object is not ours."""
        try:
            body = json.loads(comment)
        except ValueError:
            return None
        if not isinstance(body, dict) or body.get(MARK_KEY) != 1:
            return None
        return Mark(
            workspace=str(body.get("workspace", "")),
            resource=str(body.get("resource", "")),
            kind=str(body.get("kind", "")),
            tenant=body.get("tenant"),
            fingerprint=str(body.get("fingerprint", "")),
            description=str(body.get("description", "")),
            fed=tuple(str(v) for v in body.get("fed", [])),
            without=tuple(str(v) for v in body.get("without", [])),
        )


@dataclass(frozen=True, slots=True)
class Index:
    """A data skipping index."""

    name: str
    expression: str
    type: str
    granularity: int = 1


@dataclass(frozen=True, slots=True)
class Table:
    """A table. Keys and clauses are SQL text; `engine` includes its arguments, e.g. `SummingMergeTree((n))`."""

    name: Name
    columns: tuple[Column, ...]
    engine: str = "MergeTree"
    sorting_key: str = ""
    partition_key: str = ""
    primary_key: str = ""
    sampling_key: str = ""
    ttl: str = ""
    settings: tuple[tuple[str, str], ...] = ()
    indexes: tuple[Index, ...] = ()
    constraints: tuple[tuple[str, str], ...] = ()
    mark: Mark | None = None

    def column(self, name: str) -> Column | None:
        return next((c for c in self.columns if c.name == name), None)


@dataclass(frozen=True, slots=True)
class View:
    """A materialized view: rows inserted into `source` pass through `sql` into `target`.

    `backfill` is the same query over `source` with two placeholders, `{rk_after:UInt64}` and `{rk_upto:UInt64}`,
    bounding `_block_number`, so that history can be delivered in ranges. A source that keeps no rows has its history
    in another table, the `log`.
    """

    name: Name
    target: Name
    source: Name
    sql: str
    columns: tuple[str, ...] = ()
    backfill: str = ""
    mark: Mark | None = None
    log: Name | None = None


@dataclass(frozen=True, slots=True)
class Schema:
    """Databases, tables and views; names are unique. Views are in order of data flow."""

    databases: frozenset[str] = frozenset()
    tables: Mapping[Name, Table] = field(default_factory=dict)
    views: Mapping[Name, View] = field(default_factory=dict)

    @staticmethod
    def of(databases: Iterable[str], tables: Iterable[Table], views: Iterable[View]) -> Schema:
        return Schema(frozenset(databases), {t.name: t for t in tables}, {v.name: v for v in views})

    def merged(self, other: Schema) -> Schema:
        return Schema(
            self.databases | other.databases, {**self.tables, **other.tables}, {**self.views, **other.views}
        )


def fingerprint(*parts: object) -> str:
    """A short stable digest of plain data."""
    text = json.dumps(parts, sort_keys=True, default=str, ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def quote(identifier: str) -> str:
    """An identifier in backquotes, escaped for ClickHouse."""
    return "`" + identifier.replace("\\", "\\\\").replace("`", "\\`") + "`"


def literal(text: str) -> str:
    """A string literal, escaped for ClickHouse."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\0", "\\0")
    return "'" + escaped.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t") + "'"


def nest_database(workspace: str, tenant: str) -> str:
    """The database of a tenant's nest: injective, safe on case-insensitive file systems, at most 100 bytes.

    Bytes a-z and 0-9 stay, every other UTF-8 byte becomes `_` and two hex digits. Longer results are replaced by a
    digest under another prefix, so that the two forms cannot meet; the full id is kept in the marks.
    """
    plain = b"abcdefghijklmnopqrstuvwxyz0123456789"
    encoded = "".join(chr(b) if b in plain else f"_{b:02x}" for b in tenant.encode())
    name = f"{workspace}_nest_{encoded}"
    if len(name) <= MAX_DATABASE:
        return name
    return f"{workspace}_nesth_{hashlib.sha256(tenant.encode()).hexdigest()[:40]}"
