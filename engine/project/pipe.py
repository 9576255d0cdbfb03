"""The models of a pipe file."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from engine.errors import Place
from engine.project.datasource import Engine
from engine.project.fields import (
    DESCRIPTION,
    ColumnName,
    Count,
    Expression,
    Flag,
    Prose,
    ResourceName,
    Seconds,
    Size,
    Sql,
    TokenName,
    Word,
)
from engine.project.located_model import Located, LocatedModel
from engine.project.source import YamlList, YamlMapping, YamlText


class PipeToken(Located):
    """A static token for an endpoint, created when the file is pushed."""

    name: TokenName = Field(description="Name of the token; several files may give scopes to the same token.")
    scope: Literal["READ"] = Field(description="READ, to call the endpoint.")


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
        # The generated values have the position of `sql`, so that problems with the node point to the SQL in the
        # file.
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


def short_node_name(pipe: str) -> str:
    """The name of the node in a pipe that uses the short form `sql`."""
    return f"{pipe[:110]}_node"
