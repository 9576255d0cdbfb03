"""What the author wrote, as frozen values that know where they stand.

The same models read the files, describe their keys for editors (`schema_json`) and are handed to the compiler.
Two values are equal when their contents are; their places in files do not count.
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
    default: Default = Field(default="", description="SQL expression for rows that lack the column.")
    required: Flag = Field(default=False, description="Whether a row without the value goes to quarantine.")
    codec: Clause = Field(default="", description="Compression codec, such as ZSTD(1).")
    description: Prose = DESCRIPTION
    json_path: JsonPath = Field(
        default="", alias="json", description="Where the value stands in an event, such as $.page.path."
    )

    model_config = ConfigDict(validate_by_name=False)

    @property
    def steps(self) -> list[str | None]:
        """Keys from an event down to the value, and None for every element of a list; a whole list is no step."""
        steps = json_steps(self.json_path) or [self.name]
        return steps[:-1] if steps[-1] is None else steps

    @property
    def path(self) -> list[str]:
        """Keys from an event down to the value."""
        return [step for step in self.steps if step is not None]

    @property
    def lists(self) -> int:
        """How many lists the path goes through: the value is one element of each."""
        return sum(step is None for step in self.steps)


class Engine(Located):
    """The storage of a table."""

    type: EngineType = Field(default="MergeTree", description="Table engine.")
    sorting_key: Expressions = Field(default=(), description="Order of rows; with a tenant, its column comes first.")
    partition_key: Clause = Field(default="", description="Expression by which parts are kept apart.")
    primary_key: Clause = Field(default="", description="Leading part of the sorting key that the index holds.")
    sampling_key: Clause = Field(default="", description="Expression for SAMPLE.")
    ttl: Clause = Field(default="", description="When rows are removed, such as `timestamp + INTERVAL 90 DAY`.")
    settings: Settings = Field(default=(), description="Settings of the table.")
    version: Clause = Field(
        default="", description="Version column, for Replacing- and VersionedCollapsingMergeTree."
    )
    is_deleted: Clause = Field(default="", description="Column of ReplacingMergeTree that marks deleted rows.")
    sign: Clause = Field(default="", description="Sign column of Collapsing- and VersionedCollapsingMergeTree.")
    columns: Expressions = Field(default=(), description="Columns that SummingMergeTree adds up.")

    @classmethod
    def long_form(cls, value: Any) -> Any:
        return short_form(value, "type")


class Index(Located):
    """A data skipping index."""

    name: ColumnName = Field(description="Name of the index.")
    expression: Expression = Field(description="Indexed expression.")
    type: IndexType = Field(description="Type of the index, such as minmax or bloom_filter(0.01).")
    granularity: Count = Field(default=1, description="Granules per entry of the index.")


class Tenant(Located):
    """Whose the rows of a datasource are."""

    column: ColumnName = Field(description="Column that names the tenant of each row.")
    landing: Flag = Field(default=True, description="Whether the datasource receives the rows of all tenants.")
    fanout: Literal["auto", "direct", "routed"] = Field(
        default="auto",
        description="How rows reach the nests: views on the datasource, a router, or whichever suits their number.",
    )
    foreign: Literal["refuse", "quarantine"] = Field(
        default="refuse",
        description="What becomes of another tenant's row under a token that writes for one: the whole request is "
        "refused, or the row goes to quarantine.",
    )
    nest_copy: Flag = Field(default=True, description="Whether each tenant's nest keeps a copy of its rows.")

    @classmethod
    def long_form(cls, value: Any) -> Any:
        return short_form(value, "column")


class Shared(Located):
    """Who may read what a pipe made of many tenants' rows."""

    all: Flag = Field(default=False, description="Whether every tenant may read all of it.")
    min_tenants: Count | None = Field(
        default=None, description="Fewest tenants whose rows a group is made of; readers do not see smaller groups."
    )

    @classmethod
    def long_form(cls, value: Any) -> Any:
        return short_form(value, "all")


class DatasourceToken(Located):
    """A static token for a datasource, made when the file is pushed."""

    name: TokenName = Field(description="Name of the token; one name may collect scopes from several files.")
    scope: Literal["READ", "APPEND"] = Field(description="READ for queries, APPEND for events.")


class PipeToken(Located):
    """A static token for an endpoint, made when the file is pushed."""

    name: TokenName = Field(description="Name of the token; one name may collect scopes from several files.")
    scope: Literal["READ"] = Field(description="READ: the endpoint may be called.")


class Datasource(LocatedModel):
    """A declared table."""

    description: Prose = DESCRIPTION
    columns: Annotated[tuple[Column, ...], Field(min_length=1)] = Field(description="Columns, in order.")
    engine: Engine = Field(default=Engine(), description="Storage: the engine's name or a mapping.")
    indexes: tuple[Index, ...] = Field(default=(), description="Data skipping indexes.")
    tenant: Tenant | None = Field(default=None, description="Whose the rows are: the tenant column or a mapping.")
    shared: Shared = Field(
        default=Shared(), description="Whether tenants share what pipes make of their rows here: true or a mapping."
    )
    tokens: tuple[DatasourceToken, ...] = Field(default=(), description="Static tokens for this datasource.")
    final: Flag = Field(default=False, description="Whether readers see rows merged (FINAL).")
    strict: Flag = Field(
        default=False,
        description="Whether rows with keys that no column takes go to quarantine instead of the table.",
    )

    @property
    def tenant_column(self) -> str | None:
        return self.tenant.column if self.tenant else None

    @property
    def is_landing(self) -> bool:
        """Whether the rows of all tenants arrive here."""
        return self.tenant is not None and self.tenant.landing

    @property
    def sorting_key(self) -> tuple[str, ...]:
        return self.engine.sorting_key

    def column(self, name: str) -> Column | None:
        return next((c for c in self.columns if c.name == name), None)


class Node(Located):
    """One named query of a pipe."""

    name: ResourceName = Field(description="Name under which later nodes read the result.")
    description: Prose = DESCRIPTION
    sql: Sql = Field(description="A SELECT, which may be a template.")

    @property
    def place(self) -> Place:
        """Where the SQL begins."""
        return self.position(1, 1)

    def position(self, line: int, column: int) -> Place:
        """Where the given line and column of `sql` (1-based) stand in the file."""
        text = self._keys.get("sql") if self._keys else None
        if not isinstance(text, YamlText):
            return super().place
        return text.source.place(text.position(line, column))


class Parameter(Located):
    """What is said about a parameter in addition to its use in a template."""

    name: ColumnName = Field(description="Name in the query string.")
    type: Expression = Field(default="String", description="Type, such as String, Int32 or Array(Int32).")
    default: Word | None = Field(default=None, description="Value that is taken when the caller gives none.")
    description: Prose = DESCRIPTION
    required: Flag = Field(default=False, description="Whether a call without it is refused.")
    enum: tuple[Word, ...] = Field(default=(), description="The only values that are accepted.")
    example: Word | None = Field(default=None, description="A value for documentation.")
    tenant_key: Flag = Field(default=False, description="Whether it selects the tenant; only a token may fix it.")


class Limits(Located):
    """What one endpoint may cost. What is absent is as the server's settings say."""

    max_seconds: Seconds | None = Field(default=None, description="Longest time of one query.")
    max_rows: Count | None = Field(default=None, description="Most rows of one result.")
    max_memory: Size | None = Field(default=None, description="Most memory of one query: bytes, or such as 512MiB.")
    max_concurrent: Count | None = Field(default=None, description="Most queries at the same time.")


class Endpoint(Located):
    """How a pipe is served over HTTP."""

    node: ResourceName | None = Field(default=None, description="Node that is served; the last one when absent.")
    limits: Limits = Field(default=Limits(), description="What one call may cost.")
    quote_64bit_integers: Flag | None = Field(
        default=None, description="Whether JSON has integers of 64 bits and more as text."
    )


class Materialize(Located):
    """How a node fills a datasource."""

    target: ResourceName = Field(description="Datasource that receives the rows.")
    node: ResourceName | None = Field(default=None, description="Node that fills it; the last one when absent.")
    engine: Engine | None = Field(default=None, description="Storage of a target that has no file of its own.")
    per_tenant: Flag = Field(default=False, description="Whether every tenant has a target of its own.")
    drop_tenant_column: Flag = Field(default=False, description="Whether the target hides the tenant column.")


PipeKind = Literal["endpoint", "materialized", "standard"]


class Pipe(LocatedModel):
    """Named queries in order, of which one may be served or fill a datasource."""

    description: Prose = DESCRIPTION
    nodes: Annotated[tuple[Node, ...], Field(min_length=1)] = Field(description="Queries, in order.")
    type: PipeKind | None = Field(
        default=None, description="What the pipe does; when absent, materialized with `materialize`, else endpoint."
    )
    parameters: tuple[Parameter, ...] = Field(default=(), description="Parameters of the templates.")
    endpoint: Endpoint | None = Field(default=None, description="How the pipe is served.")
    materialize: Materialize | None = Field(default=None, description="Which datasource the pipe fills.")
    tokens: tuple[PipeToken, ...] = Field(default=(), description="Static tokens for the endpoint.")

    @classmethod
    def long_form(cls, value: Any) -> Any:
        """A pipe with `sql` for its only node becomes one with `nodes`."""
        if not isinstance(value, YamlMapping) or "nodes" in value or "sql" not in value:
            return value
        sql = value["sql"]
        name = YamlText(short_node_name(str(value.get("name", ""))))
        name.source, name.location, name.end, name.style, name.absent = (
            value.source,
            sql.location,
            sql.location,
            "",
            False,
        )
        node = value.like({"name": name, "sql": sql})
        nodes = YamlList([node])
        node.location, nodes.source, nodes.location = sql.location, value.source, sql.location
        return value.like({**{k: v for k, v in value.items() if k != "sql"}, "nodes": nodes})

    @property
    def kind(self) -> PipeKind:
        """What the pipe does."""
        return self.type or ("materialized" if self.materialize else "endpoint")

    def node(self, name: str | None) -> Node | None:
        """A node by name; the last one without a name; None when there is no such node."""
        if name is None:
            return self.nodes[-1]
        return next((n for n in self.nodes if n.name == name), None)

    @property
    def published(self) -> Node | None:
        """The node that is served over HTTP."""
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
        """Whether answers have large integers as text; None: as the server's settings say."""
        return self.endpoint.quote_64bit_integers if self.endpoint else None


Resource = Datasource | Pipe


@dataclass(frozen=True, slots=True)
class Project:
    """All resources of a workspace by name."""

    datasources: Mapping[str, Datasource] = field(default_factory=dict)
    pipes: Mapping[str, Pipe] = field(default_factory=dict)

    @staticmethod
    def of(resources: Iterable[Resource]) -> Project:
        """The project of these resources. Raises Problems (DUPLICATE_NAME) when two have one name."""
        found: dict[str, Resource] = {}
        twice: list[RookeryError] = []
        for resource in resources:
            other = found.setdefault(resource.name, resource)
            if other is not resource:
                message = f"there is another resource named `{resource.name}`"
                hint = f"rename this file or {other.place.file or 'the other'}"
                twice.append(RookeryError(DUPLICATE_NAME, message, hint=hint, place=resource.place))
        if twice:
            raise Problems(twice)
        return Project(
            {n: r for n, r in sorted(found.items()) if isinstance(r, Datasource)},
            {n: r for n, r in sorted(found.items()) if isinstance(r, Pipe)},
        )

    def get(self, name: str) -> Resource | None:
        return self.datasources.get(name) or self.pipes.get(name)

    def resources(self) -> tuple[Resource, ...]:
        """Datasources, then pipes, each by name."""
        return (*self.datasources.values(), *self.pipes.values())

    def merged(self, other: Project) -> Project:
        """This project with the resources of another put over it, by name."""
        kept = [r for r in self.resources() if other.get(r.name) is None]
        return Project.of((*kept, *other.resources()))


def short_node_name(pipe: str) -> str:
    """The name of the only node of a pipe that is written with `sql`."""
    return f"{pipe[:110]}_node"
