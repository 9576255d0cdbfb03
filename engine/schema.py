"""Databases, tables and views in ClickHouse, as values.

The desired state (compiled from files) and the live state (read from the catalog) have the same types, so a plan is
the difference between two values.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

_LAST_DATE = "toDate('2106-01-01')"
MARK_KEY = "rookery"
MAX_DATABASE_BYTES = 100
"""Longest database name that rookery creates. The engine allows 245 bytes for the database and the table together."""


@dataclass(frozen=True, slots=True, order=True)
class Name:
    """The name of a table or view, with its database. Both parts are unescaped."""

    database: str
    name: str

    def sql(self) -> str:
        """The name quoted for SQL."""
        return f"{quote(self.database)}.{quote(self.name)}"

    def __str__(self) -> str:
        return f"{self.database}.{self.name}"


@dataclass(frozen=True, slots=True)
class Column:
    """A column, in the engine's own spelling."""

    name: str
    type: str
    default_kind: str = ""
    """DEFAULT, MATERIALIZED, ALIAS, or empty without a default."""
    default: str = ""
    """The SQL expression of the default."""
    codec: str = ""
    comment: str = ""

    @property
    def hidden(self) -> bool:
        """Whether the column is internal, so that queries do not see it."""
        return self.name.startswith("_rk_")


@dataclass(frozen=True, slots=True)
class Mark:
    """The mark on an object that rookery created, stored as JSON in its comment. Other objects are never changed."""

    workspace: str
    resource: str
    """The datasource or pipe that the object belongs to."""
    kind: str
    """The role of the object for the resource."""
    tenant: str | None = None
    """The tenant that the object belongs to; None if it is shared."""
    fingerprint: str = ""
    """Of a view: a digest of what it was compiled from, to detect changes."""
    description: str = ""
    feeders: tuple[str, ...] = ()
    """Of a table: the views that have delivered into it, including views that no longer exist."""
    excluded_tenants: tuple[str, ...] = ()
    """Of a view for several tenants: the tenants whose rows it excludes because it fails on them."""

    def text(self) -> str:
        """The mark as the JSON text of a comment."""
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
        if self.feeders:
            body["fed"] = list(self.feeders)
        if self.excluded_tenants:
            body["without"] = list(self.excluded_tenants)
        return json.dumps(body, ensure_ascii=False, sort_keys=True)

    @staticmethod
    def read(comment: str) -> Mark | None:
        """Parse the comment of an object. None if it is not a mark, so the object does not belong to rookery."""
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
            feeders=tuple(str(v) for v in body.get("fed", [])),
            excluded_tenants=tuple(str(v) for v in body.get("without", [])),
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
    """A table. Keys and clauses are SQL text and empty if absent."""

    name: Name
    columns: tuple[Column, ...]
    engine: str = "MergeTree"
    """The engine with its arguments, such as `SummingMergeTree((n))`."""
    sorting_key: str = ""
    partition_key: str = ""
    primary_key: str = ""
    sampling_key: str = ""
    ttl: str = ""
    settings: tuple[tuple[str, str], ...] = ()
    indexes: tuple[Index, ...] = ()
    constraints: tuple[tuple[str, str], ...] = ()
    """The name and expression of each CHECK constraint."""
    mark: Mark | None = None

    def column(self, name: str) -> Column | None:
        """The column with this name, or None."""
        return next((c for c in self.columns if c.name == name), None)


@dataclass(frozen=True, slots=True)
class View:
    """A materialized view: the engine applies `sql` to each block inserted into `source` and fills `target`."""

    name: Name
    target: Name
    source: Name
    sql: str
    columns: tuple[str, ...] = ()
    """The columns of the target that the view fills."""
    backfill: str = ""
    """The same query limited by `_block_number`, to deliver stored rows in ranges.

    Its placeholders are `{rk_after:UInt64}` (exclusive) and `{rk_upto:UInt64}` (inclusive).
    """
    mark: Mark | None = None
    log: Name | None = None
    """The table with the history of a source that does not store rows."""

    @property
    def excluded_tenants(self) -> tuple[str, ...]:
        """The tenants whose rows the view leaves out."""
        return self.mark.excluded_tenants if self.mark else ()


@dataclass(frozen=True, slots=True)
class Schema:
    """Databases, tables and views. Views are in order of data flow."""

    databases: frozenset[str] = frozenset()
    tables: Mapping[Name, Table] = field(default_factory=dict)
    views: Mapping[Name, View] = field(default_factory=dict)

    @staticmethod
    def of(databases: Iterable[str], tables: Iterable[Table], views: Iterable[View]) -> Schema:
        """Build a schema from objects with distinct names."""
        return Schema(frozenset(databases), {t.name: t for t in tables}, {v.name: v for v in views})

    def merged(self, other: Schema) -> Schema:
        """The objects of both schemas. Those of `other` replace objects with the same name."""
        return Schema(
            self.databases | other.databases, {**self.tables, **other.tables}, {**self.views, **other.views}
        )


def fingerprint(*parts: object) -> str:
    """A short, stable digest of plain data, as hexadecimal text."""
    text = json.dumps(parts, sort_keys=True, default=str, ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def lasting_ttl(condition: str, ttl: str) -> str:
    """A TTL that is `ttl` for rows that fulfill a condition. Others are kept at least until 2106."""
    return f"if({condition}, {ttl}, greatest({ttl}, {_LAST_DATE}))"


def declared_ttl(ttl: str) -> str:
    """The declared TTL of a table, whose TTL in the engine's spelling may be that of `lasting_ttl`."""
    end = f", {_LAST_DATE}))"
    if not (ttl.startswith("if(") and ttl.endswith(end)):
        return ttl
    # The TTL is in it twice, so the text has one ending at which the part before repeats it.
    before, _, declared = ttl.removesuffix(end).rpartition(", greatest(")
    return declared if before.endswith(f", {declared}") else ttl


def quote(identifier: str) -> str:
    """Quote an identifier for ClickHouse, in backquotes."""
    return "`" + identifier.replace("\\", "\\\\").replace("`", "\\`") + "`"


def literal(text: str) -> str:
    """Format a string as a literal for ClickHouse."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\0", "\\0")
    return "'" + escaped.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t") + "'"


def nest_database(workspace: str, tenant: str) -> str:
    """The name of the database for a tenant's nest, at most MAX_DATABASE_BYTES long.

    Different ids give different names, even on case-insensitive file systems: a-z and 0-9 remain, and every other
    UTF-8 byte becomes `_` with two hexadecimal digits. If the name is too long, it becomes a digest under another
    prefix, so that the two forms cannot collide. Marks contain the full id.
    """
    plain = b"abcdefghijklmnopqrstuvwxyz0123456789"
    encoded = "".join(chr(b) if b in plain else f"_{b:02x}" for b in tenant.encode())
    name = f"{workspace}_nest_{encoded}"
    if len(name) <= MAX_DATABASE_BYTES:
        return name
    return f"{workspace}_nesth_{hashlib.sha256(tenant.encode()).hexdigest()[:40]}"
