"""The models of project files: frozen values that know their position in the file.

The same models validate the files, describe their keys for editors (`schema_json`) and are the compiler's input.
Two values are equal if their contents are equal, regardless of their positions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from engine.errors import DUPLICATE_NAME, Place, Problems, RookeryError
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
    Prose,
    ResourceName,
    Seconds,
    Settings,
    Size,
    Sql,
    TokenName,
    Word,
    json_steps,
)
from engine.project.located_model import Located, LocatedModel, short_form
from engine.project.source import YamlList, YamlMapping, YamlText

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
    partition_key: Clause = Field(default="", description="Expression that splits the table into partitions.")
    primary_key: Clause = Field(default="", description="Prefix of the sorting key that the primary index stores.")
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

    name: TokenName = Field(description="Name of the token; the same name may get scopes from several files.")
    scope: Literal["READ", "APPEND"] = Field(description="READ for queries, APPEND for sending events.")


class PipeToken(Located):
    """A static token for an endpoint, created when the file is pushed."""

    name: TokenName = Field(description="Name of the token; the same name may get scopes from several files.")
    scope: Literal["READ"] = Field(description="READ, to call the endpoint.")


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


class Node(Located):
    """One named query of a pipe."""

    name: ResourceName = Field(description="Name that later nodes use to read the result.")
    description: Prose = DESCRIPTION
    sql: Sql = Field(description="A SELECT, which may be a template.")

    @property
    def place(self) -> Place:
        """Where the SQL begins."""
        return self.position(1, 1)

    def position(self, line: int, column: int) -> Place:
        """The place in the file of a line and column of `sql`, both 1-based."""
        text = self._keys.get("sql") if self._keys else None
        if not isinstance(text, YamlText):
            return super().place
        return text.source.place(text.position(line, column))


class Parameter(Located):
    """The declaration of a parameter, in addition to its use in a template."""

    name: ColumnName = Field(description="Name of the parameter in the query string.")
    type: Expression = Field(default="String", description="Type, such as String, Int32 or Array(Int32).")
    default: Word | None = Field(default=None, description="Value to use if the caller does not send one.")
    description: Prose = DESCRIPTION
    required: Flag = Field(default=False, description="Whether a call without the parameter is refused.")
    enum: tuple[Word, ...] = Field(default=(), description="The only values that are accepted.")
    example: Word | None = Field(default=None, description="Example value for the documentation.")
    tenant_key: Flag = Field(
        default=False, description="Whether the parameter selects the tenant; only a token can set such a parameter."
    )


class Limits(Located):
    """Limits for one endpoint. The server's settings apply to limits that are absent."""

    max_seconds: Seconds | None = Field(default=None, description="Maximum duration of a query, in seconds.")
    max_rows: Count | None = Field(default=None, description="Maximum number of rows in a result.")
    max_memory: Size | None = Field(
        default=None, description="Maximum memory of a query, in bytes or with a unit, such as 512MiB."
    )
    max_concurrent: Count | None = Field(default=None, description="Maximum number of concurrent queries.")


class Endpoint(Located):
    """How a pipe is served over HTTP."""

    node: ResourceName | None = Field(default=None, description="Node to publish; the last one if absent.")
    limits: Limits = Field(default=Limits(), description="Limits for each call.")
    quote_64bit_integers: Flag | None = Field(
        default=None, description="Whether JSON results contain 64-bit and larger integers as strings."
    )


class Materialize(Located):
    """How a node fills a datasource."""

    target: ResourceName = Field(description="Datasource that receives the rows.")
    node: ResourceName | None = Field(default=None, description="Node that fills it; the last one if absent.")
    engine: Engine | None = Field(
        default=None, description="How to store the target, if it does not have a file of its own."
    )
    per_tenant: Flag = Field(default=False, description="Whether each tenant has its own target.")
    drop_tenant_column: Flag = Field(default=False, description="Whether the target hides the tenant column.")


PipeKind = Literal["endpoint", "materialized", "standard"]


class Pipe(LocatedModel):
    """A chain of named queries. The result of one of them may be published or stored in a datasource."""

    description: Prose = DESCRIPTION
    nodes: Annotated[tuple[Node, ...], Field(min_length=1)] = Field(description="Queries, in order.")
    type: PipeKind | None = Field(
        default=None, description="Kind of the pipe; by default materialized with `materialize`, otherwise endpoint."
    )
    parameters: tuple[Parameter, ...] = Field(default=(), description="Declarations of the templates' parameters.")
    endpoint: Endpoint | None = Field(default=None, description="How the pipe is published over HTTP.")
    materialize: Materialize | None = Field(default=None, description="Which datasource the pipe fills, and how.")
    tokens: tuple[PipeToken, ...] = Field(default=(), description="Static tokens for the endpoint.")

    @classmethod
    def long_form(cls, value: Any) -> Any:
        """Turn a pipe with the short form `sql` into a pipe with one node under `nodes`."""
        if not isinstance(value, YamlMapping) or "nodes" in value or "sql" not in value:
            return value
        sql = value["sql"]
        name = YamlText.at(short_node_name(str(value.get("name", ""))), value.source, sql.location)
        node = value.like({"name": name, "sql": sql})
        nodes = YamlList([node])
        node.location, nodes.source, nodes.location = sql.location, value.source, sql.location
        return value.like({**{k: v for k, v in value.items() if k != "sql"}, "nodes": nodes})

    @property
    def kind(self) -> PipeKind:
        """The type as written, or the default that follows from the other keys."""
        return self.type or ("materialized" if self.materialize else "endpoint")

    def node(self, name: str | None) -> Node | None:
        """The node with this name, or the last node if `name` is None. None if there is no such node."""
        if name is None:
            return self.nodes[-1]
        return next((n for n in self.nodes if n.name == name), None)

    @property
    def published(self) -> Node | None:
        """The node that is published over HTTP."""
        return self.node(self.endpoint.node if self.endpoint else None) if self.kind == "endpoint" else None

    @property
    def materialized(self) -> Node | None:
        """The node that fills the target."""
        return self.node(self.materialize.node) if self.materialize else None

    @property
    def limits(self) -> Limits:
        return self.endpoint.limits if self.endpoint else Limits()

    @property
    def quote_64bit_integers(self) -> bool | None:
        """Whether JSON contains large integers as strings; None to follow the server's settings."""
        return self.endpoint.quote_64bit_integers if self.endpoint else None


Resource = Datasource | Pipe


@dataclass(frozen=True, slots=True)
class Project:
    """The resources of a workspace, by name."""

    datasources: Mapping[str, Datasource] = field(default_factory=dict)
    pipes: Mapping[str, Pipe] = field(default_factory=dict)

    @staticmethod
    def of(resources: Iterable[Resource]) -> Project:
        """Build a project from resources. Raises Problems (DUPLICATE_NAME) if two of them have the same name."""
        by_name: dict[str, Resource] = {}
        duplicates: list[RookeryError] = []
        for resource in resources:
            other = by_name.setdefault(resource.name, resource)
            if other is not resource:
                message = f"there is another resource named `{resource.name}`"
                hint = f"rename this file or {other.place.file or 'the other'}"
                duplicates.append(RookeryError(DUPLICATE_NAME, message, hint=hint, place=resource.place))
        if duplicates:
            raise Problems(duplicates)
        return Project(
            {n: r for n, r in sorted(by_name.items()) if isinstance(r, Datasource)},
            {n: r for n, r in sorted(by_name.items()) if isinstance(r, Pipe)},
        )

    def get(self, name: str) -> Resource | None:
        return self.datasources.get(name) or self.pipes.get(name)

    def resources(self) -> tuple[Resource, ...]:
        """Datasources, then pipes, each by name."""
        return (*self.datasources.values(), *self.pipes.values())

    def merged(self, other: Project) -> Project:
        """A project with the resources of both. Those of `other` replace resources of the same name."""
        kept = [r for r in self.resources() if other.get(r.name) is None]
        return Project.of((*kept, *other.resources()))


def short_node_name(pipe: str) -> str:
    """The name of the node in a pipe that uses the short form `sql`."""
    return f"{pipe[:110]}_node"
