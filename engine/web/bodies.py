"""The bodies of control requests, as pydantic models. Unknown keys are refused (RK4029).

A field's description completes its error message: "`ids` must be a list of names" (RK4009).
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
"""Maximum size of a body without files and rows."""
FILES_HINT = "each with the keys name, file and text"
B = TypeVar("B", bound="Body")

Text = Annotated[str, StringConstraints(min_length=1)]
Flag = Annotated[bool, Field(description="must be true or false")]
Names = Annotated[list[str], Field(default_factory=list, description="must be a list of names")]
RequiredText = Annotated[Text, Field(description="must be a non-empty string")]
OptionalText = Annotated[Text | None, Field(description="must be a non-empty string")]


class Body(BaseModel):
    """A JSON object whose values have exactly the types that are declared."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class NoBody(Body):
    """A body without keys: the URL has all the information."""


class FileBody(Body):
    """One file of a project."""

    name: Any = None
    file: Any = None
    text: Any = None


class FilesBody(Body):
    """The files of a project."""

    files: list[FileBody] | None = Field(default=None, description="must be a list of objects")

    def sent_files(self) -> list[dict[str, Any]]:
        """The files, each with the keys that were sent. Raises RK4009 without a list of files."""
        if self.files is None:
            raise RookeryError(BAD_REQUEST, "`files` must be a list of objects", hint=FILES_HINT)
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
    """`POST /v0/doctor`: `allow` names tables in which a repair may drop rows."""

    allow: Names


class BackupBody(Body):
    """`POST /v0/backup`: `to` is the destination of a ClickHouse server's backup; without it, a file is sent."""

    to: Text = Field(default="", description="must be a non-empty string")


class TenantsBody(Body):
    """`POST /v0/tenants`: one `id` or several `ids`."""

    id: OptionalText = None
    ids: Names
    placement: OptionalText = None


class LimitsBody(Body):
    """The limits of a token: `rps`, requests per second."""

    rps: int | None = Field(default=None, ge=1)


class TokenBody(Body):
    """`POST /v0/tokens`. With `ttl` or `expiration_time`, and without `static`, the token is a JWT."""

    name: OptionalText = None
    scopes: list[Any] = Field(default_factory=list, description="must be a list")
    tenant: OptionalText = None
    ttl: int | None = Field(default=None, description="must be a number of seconds")
    expiration_time: Any = None
    static: bool = Field(default=False, description="must be true or false")
    limits: LimitsBody | None = Field(default=None, description="must have the key `rps`, an integer of at least 1")


class SigningKeyBody(Body):
    """`POST /v0/signing-key`: `overlap` is the seconds for which the previous key stays valid."""

    overlap: int = Field(default=86_400, description="must be a number of seconds")


class SelectedRowsBody(Body):
    """`DELETE /v0/datasources/NAME/quarantine`: some rows, or all of them."""

    ids: list[str] | None = Field(default=None, description="must be a list of strings, the rows' `c__id`")
    all: Any = None


class CorrectedRow(Body):
    """A quarantined row with its corrected text."""

    id: str
    text: str


class ReplayBody(Body):
    """`POST /v0/datasources/NAME/quarantine/replay`: some rows, corrected rows, or all of them."""

    ids: list[str] | None = Field(default=None, description="must be a list of strings, the rows' `c__id`")
    rows: list[CorrectedRow] | None = Field(
        default=None, description="must be a list of objects with `id` and `text`, both strings"
    )


async def body_as(model: type[B], request: Request, limit: int = SMALL_BODY_BYTES) -> B:
    """A request's JSON body of at most `limit` bytes. Raises RK4009, RK4028, RK4029 and RK5004."""
    # Unknown keys are reported first: that is more helpful for a misspelled key than an error about the missing key.
    sent = await json_of(request, limit)
    check_names("key", sent, model.model_fields)
    try:
        return model.model_validate(sent)
    except ValidationError as exc:
        raise _error(model, exc.errors(include_url=False, include_input=False)[0]) from exc


def _error(model: type[Body], error: ErrorDetails) -> RookeryError:
    """The error for a body in the form for the caller, by its top-level key."""
    key, *inner = error["loc"]
    if error["type"] == "extra_forbidden" and key == "files":
        return unknown_name("key of a file", str(inner[-1]), FileBody.model_fields)
    hint = FILES_HINT if key == "files" else None
    return RookeryError(BAD_REQUEST, f"`{key}` {model.model_fields[str(key)].description}", hint=hint)
