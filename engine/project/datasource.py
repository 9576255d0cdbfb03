"""The models of a datasource file."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from engine.project.fields import (
    DESCRIPTION,
    Clause,
    ColumnName,
    Count,
    Default,
    Expression,
    Expressions,
    Flag,
    IndexType,
    JsonPath,
    Key,
    Prose,
    Settings,
    TokenName,
    json_steps,
)
from engine.project.located_model import Located, LocatedModel, short_form

EngineType = Literal[
    "MergeTree",
    "ReplacingMergeTree",
    "SummingMergeTree",
    "AggregatingMergeTree",
    "CollapsingMergeTree",
    "VersionedCollapsingMergeTree",
    "Null",
]


class Column(Located):
    """A column of a datasource."""

    name: ColumnName = Field(description="Name of the column.")
    type: Expression = Field(description="ClickHouse type, such as String, UInt64 or LowCardinality(String).")
    default: Default = Field(default="", description="SQL expression for rows without a value for the column.")
    required: Flag = Field(default=False, description="Whether a row without a value goes to quarantine.")
    codec: Clause = Field(default="", description="Compression codec, such as ZSTD(1).")
    description: Prose = DESCRIPTION
    json_path: JsonPath = Field(
        default="", alias="json", description="JSON path of the value in an event, such as $.page.path."
    )

    model_config = ConfigDict(validate_by_name=False)

    @property
    def steps(self) -> list[str | None]:
        """Keys from the event down to the value, with None where the path visits every element of a list.

        A `[:]` at the end selects the whole list and adds no step.
        """
        # Without a path, the value has the key of the column.
        steps = json_steps(self.json_path) or [self.name]
        return steps[:-1] if steps[-1] is None else steps

    @property
    def path(self) -> list[str]:
        """The keys among `steps`."""
        return [step for step in self.steps if step is not None]

    @property
    def lists(self) -> int:
        """How many lists the path descends into. The column then holds an array nested that deep."""
        return sum(step is None for step in self.steps)


class Engine(Located):
    """How a table is stored."""

    type: EngineType = Field(default="MergeTree", description="Table engine.")
    sorting_key: Expressions = Field(
        default=(), description="Order of rows; a tenant column, if there is one, comes first."
    )
    partition_key: Key = Field(default="", description="Expression that splits the table into partitions.")
    primary_key: Key = Field(default="", description="Prefix of the sorting key that the primary index stores.")
    sampling_key: Clause = Field(default="", description="Expression for SAMPLE.")
    ttl: Clause = Field(default="", description="When rows are removed, such as `timestamp + INTERVAL 90 DAY`.")
    settings: Settings = Field(default=(), description="Settings of the table.")
    version: Clause = Field(
        default="", description="Version column, for ReplacingMergeTree and VersionedCollapsingMergeTree."
    )
    is_deleted: Clause = Field(default="", description="Column of ReplacingMergeTree that marks deleted rows.")
    sign: Clause = Field(
        default="", description="Sign column, for CollapsingMergeTree and VersionedCollapsingMergeTree."
    )
    columns: Expressions = Field(default=(), description="Columns that SummingMergeTree adds up.")

    @classmethod
    def long_form(cls, value: Any) -> Any:
        return short_form(value, "type")


class Index(Located):
    """A data skipping index."""

    name: ColumnName = Field(description="Name of the index.")
    expression: Expression = Field(description="Expression to index.")
    type: IndexType = Field(description="Type of the index, such as minmax or bloom_filter(0.01).")
    granularity: Count = Field(default=1, description="Number of granules per index entry.")


class Tenant(Located):
    """Which tenant each row of a datasource belongs to."""

    column: ColumnName = Field(description="Column that holds the tenant id of each row.")
    landing: Flag = Field(default=True, description="Whether the datasource takes the events of all tenants.")
    fanout: Literal["auto", "direct", "routed"] = Field(
        default="auto",
        description="How rows reach the nests: one view per tenant (direct), a router (routed), or chosen by the "
        "number of nests (auto).",
    )
    foreign: Literal["refuse", "quarantine"] = Field(
        default="refuse",
        description="What happens if a token for one tenant sends another tenant's row: the whole request "
        "is refused, or the row goes to quarantine.",
    )
    nest_copy: Flag = Field(default=True, description="Whether each nest keeps a copy of its tenant's rows.")

    @classmethod
    def long_form(cls, value: Any) -> Any:
        return short_form(value, "column")


class Shared(Located):
    """Who may read rows that a pipe derives from several tenants' rows."""

    all: Flag = Field(default=False, description="Whether every tenant may read all rows.")
    min_tenants: Count | None = Field(
        default=None, description="Minimum number of tenants that contribute to a group; smaller groups are hidden."
    )

    @classmethod
    def long_form(cls, value: Any) -> Any:
        return short_form(value, "all")


class DatasourceToken(Located):
    """A static token for a datasource, created when the file is pushed."""

    name: TokenName = Field(description="Name of the token; several files may give scopes to the same token.")
    scope: Literal["READ", "APPEND"] = Field(description="READ for queries, APPEND for sending events.")


class Datasource(LocatedModel):
    """A declared table."""

    description: Prose = DESCRIPTION
    columns: Annotated[tuple[Column, ...], Field(min_length=1)] = Field(description="Columns, in order.")
    engine: Engine = Field(default=Engine(), description="How the table is stored: an engine's name or a mapping.")
    indexes: tuple[Index, ...] = Field(default=(), description="Data skipping indexes.")
    tenant: Tenant | None = Field(
        default=None, description="Which tenant each row belongs to: the tenant column's name or a mapping."
    )
    shared: Shared = Field(
        default=Shared(), description="Whether tenants share the rows that pipes store here: true or a mapping."
    )
    tokens: tuple[DatasourceToken, ...] = Field(default=(), description="Static tokens for this datasource.")
    final: Flag = Field(default=False, description="Whether readers see merged rows (FINAL).")
    strict: Flag = Field(
        default=False,
        description="Whether a row with a key that no column reads goes to quarantine instead of the table.",
    )

    @property
    def tenant_column(self) -> str | None:
        return self.tenant.column if self.tenant else None

    @property
    def is_landing(self) -> bool:
        """Whether this datasource receives the events of all tenants."""
        return self.tenant is not None and self.tenant.landing

    @property
    def sorting_key(self) -> tuple[str, ...]:
        return self.engine.sorting_key

    def column(self, name: str) -> Column | None:
        return next((c for c in self.columns if c.name == name), None)
