"""The bodies of control requests, as pydantic models. What a model does not know is refused (RK4029).

Each field's description completes the sentence of its error: "`ids` is a list of names" (RK4009).
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic_core import ErrorDetails
from starlette.requests import Request

from engine.errors import BAD_REQUEST, RookeryError
from engine.web.known_fields import check_names, unknown_name
from engine.web.requests import json_of

SMALL_BODY_BYTES = 1 << 16
"""Limit of a body that holds no files and no rows."""
FILES_HINT = "each has the keys name, file and text"
B = TypeVar("B", bound="Body")

Text = Annotated[str, StringConstraints(min_length=1)]
Flag = Annotated[bool, Field(description="is true or false")]
Names = Annotated[list[str], Field(default_factory=list, description="is a list of names")]
RequiredText = Annotated[Text, Field(description="is needed, as text")]
OptionalText = Annotated[Text | None, Field(description="is needed, as text")]


class Body(BaseModel):
    """A JSON object whose values have exactly the types that are declared."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class NoBody(Body):
    """For requests that say everything in their address."""


class FileBody(Body):
    """One file of a project."""

    name: Any = None
    file: Any = None
    text: Any = None


class FilesBody(Body):
    """A project's files."""

    files: list[FileBody] | None = Field(default=None, description="is a list of objects")

    def sent_files(self) -> list[dict[str, Any]]:
        """The files with the keys that were sent. Raises RK4009 when there is no list of files."""
        if self.files is None:
            raise RookeryError(BAD_REQUEST, "`files` is needed, as a list of objects", hint=FILES_HINT)
        return [file.model_dump(exclude_unset=True) for file in self.files]


class PushBody(FilesBody):
    """`POST /v0/push`."""

    dry_run: Flag = False
    prune: Flag = False
    allow: Names
    only: Names
    with_dependencies: Flag = False
    skip_backfill: Names


class MaterializeBody(FilesBody):
    """`POST /v0/materialize`."""

    pipe: RequiredText
    target: RequiredText
    node: OptionalText = None
    per_tenant: Flag = False


class RepairBody(Body):
    """`POST /v0/doctor`: tables in which a repair may drop rows."""

    allow: Names


class TenantsBody(Body):
    """`POST /v0/tenants`: one `id` or several `ids`."""

    id: OptionalText = None
    ids: Names
    placement: OptionalText = None


class LimitsBody(Body):
    """What a token may use: requests per second."""

    rps: int | None = Field(default=None, ge=1)


class TokenBody(Body):
    """`POST /v0/tokens`. A token with `ttl` or `expiration_time` is a JWT, any other is static."""

    name: OptionalText = None
    scopes: list[Any] = Field(default_factory=list, description="is a list")
    tenant: OptionalText = None
    ttl: int | None = Field(default=None, description="is a number of seconds")
    expiration_time: Any = None
    limits: LimitsBody | None = Field(default=None, description="is `rps`, a whole number from 1")


class SigningKeyBody(Body):
    """`POST /v0/signing-key`: seconds for which the previous key stays valid."""

    overlap: int = Field(default=86_400, description="is a number of seconds")


class SelectedRowsBody(Body):
    """`DELETE /v0/datasources/NAME/quarantine`: some rows, or all of them."""

    ids: list[str] | None = Field(default=None, description="is a list of texts, the rows' `c__id`")
    all: Any = None


class CorrectedRow(Body):
    """A quarantined row with its corrected text."""

    id: str
    text: str


class ReplayBody(Body):
    """`POST /v0/datasources/NAME/quarantine/replay`: some rows, corrected rows, or all of them."""

    ids: list[str] | None = Field(default=None, description="is a list of texts, the rows' `c__id`")
    rows: list[CorrectedRow] | None = Field(
        default=None, description="is a list of objects with `id` and `text`, both texts"
    )


async def body_as(kind: type[B], request: Request, limit: int = SMALL_BODY_BYTES) -> B:
    """A request's JSON body, at most `limit` bytes. Raises RK4009, RK4028, RK4029 and RK5004."""
    sent = await json_of(request, limit)
    check_names("key", sent, kind.model_fields)
    try:
        return kind.model_validate(sent)
    except ValidationError as exc:
        raise _refusal(kind, exc.errors(include_url=False, include_input=False)[0]) from exc


def _refusal(kind: type[Body], error: ErrorDetails) -> RookeryError:
    """The first error of a body, with its top-level key."""
    key, *inner = error["loc"]
    if error["type"] == "extra_forbidden" and key == "files":
        return unknown_name("key of a file", str(inner[-1]), FileBody.model_fields)
    hint = FILES_HINT if key == "files" else None
    return RookeryError(BAD_REQUEST, f"`{key}` {kind.model_fields[str(key)].description}", hint=hint)
