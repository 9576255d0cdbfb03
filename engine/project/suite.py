"""The models of a test file: fixtures, and calls of endpoints with the results that they must have.

Cells of rows stay as the YAML reader returned them, because only the type of a column decides what they mean.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from engine.errors import (
    Place,
    codes,
    did_you_mean,
)
from engine.project.fields import DESCRIPTION, Flag, Prose, ResourceName, Sql, Word, fail
from engine.project.located_model import Located
from engine.project.source import YamlList, YamlMapping, YamlText, shown

Placement = Literal["pooled", "tables"]
PLACEMENTS: tuple[Placement, ...] = get_args(Placement)
DEFAULT_TOLERANCE = 1e-9
_TOLERANCE = re.compile(r"[0-9]{1,9}(\.[0-9]{1,18})?([eE]-?[0-9]{1,2})?", re.ASCII)
_TENANTS_HINT = "write [7, 8], or {7: tables, 8: pooled}"


def _test_name(value: str) -> str:
    name = " ".join(value.split())
    if not name or len(name) > 200 or not name.isprintable():
        fail("must be a short text", "use 1 to 200 printable characters", kind="bad_name")
    return name


def _tenants(value: Any) -> Any:
    """The tenants as pairs of id and placement; the placement is None if the file leaves it open."""
    if isinstance(value, YamlMapping):
        for tenant, placement in value.items():
            if placement not in PLACEMENTS:
                fail(f"must give tenant {shown(tenant)} the placement pooled or tables", _TENANTS_HINT)
        return tuple(value.items())
    if isinstance(value, YamlList) and all(isinstance(item, YamlText) for item in value):
        return tuple((str(item), None) for item in value)
    return value if isinstance(value, tuple) else fail("must be a list of tenant ids, or a mapping", _TENANTS_HINT)


def _tolerance(value: Any) -> Any:
    if isinstance(value, str):
        if not _TOLERANCE.fullmatch(value):
            fail(f"must be a number, not `{shown(value)}`", "such as 0, 0.01 or 1e-6")
        return float(value)
    return value


def _error_code(value: str) -> str:
    if value not in codes():
        hint = did_you_mean(value, codes(), "such as RK4006; docs/errors.md lists them")
        fail(f"must be an error code, not `{shown(value)}`", hint or "")
    return value


_SCALAR = {"type": ["string", "number", "boolean", "null"]}
_ROWS: dict[str, Any] = {"type": "array", "items": {"type": "object"}}
_TENANTS_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "array", "items": {"type": ["string", "number"]}},
        {"type": "object", "additionalProperties": {"enum": list(PLACEMENTS)}},
    ]
}

TestName = Annotated[str, AfterValidator(_test_name), WithJsonSchema({"type": "string", "minLength": 1})]
Tolerance = Annotated[float, BeforeValidator(_tolerance), WithJsonSchema({"type": "number", "minimum": 0})]
ErrorCode = Annotated[str, AfterValidator(_error_code), WithJsonSchema({"type": "string", "pattern": "^RK[0-9]{4}$"})]
Tenants = Annotated[
    tuple[tuple[str, Placement | None], ...], BeforeValidator(_tenants), WithJsonSchema(_TENANTS_SCHEMA)
]
Rows = Annotated[Any, WithJsonSchema(_ROWS)]
Arguments = Annotated[
    dict[str, Any],
    WithJsonSchema({"type": "object", "additionalProperties": {"anyOf": [_SCALAR, {"type": "array"}]}}),
]
Fixtures = Annotated[
    dict[str, Any],
    WithJsonSchema({"type": "object", "additionalProperties": {"anyOf": [{"type": "string"}, _ROWS]}}),
]


class Case(Located):
    """One call, and its result."""

    name: TestName = Field(description="What the test shows; unique in the file.")
    endpoint: ResourceName | None = Field(default=None, description="Endpoint to call.")
    sql: Sql | None = Field(default=None, description="Query to run, instead of an endpoint.")
    tenant: Word | None = Field(
        default=None, description="Tenant whose token is used; without it, the test runs as admin."
    )
    params: Arguments = Field(default={}, description="Parameters of the call.")
    expect: Rows = Field(default=None, description="The rows of the result, in order.")
    expect_file: Word | None = Field(
        default=None, description="NDJSON or CSV file with the rows of the result, relative to the test file."
    )
    expect_error: ErrorCode | None = Field(default=None, description="Code of the error that the call must have.")
    columns: tuple[Word, ...] = Field(default=(), description="Columns to compare; all of them by default.")
    unordered: Flag = Field(default=False, description="Whether the order of rows is ignored.")
    tolerance: Tolerance | None = Field(
        default=None, description="Tolerance for floating-point numbers in this test; by default, that of the file."
    )
    isolated: Flag = Field(
        default=True,
        description="Whether the result must be the same without other tenants' rows. Set it to false for endpoints "
        "that read data that tenants share.",
    )


class Suite(Located):
    """A test file."""

    description: Prose = DESCRIPTION
    tenants: Tenants = Field(
        default=(),
        description="Tenants to add: a list, or a mapping with a placement for each; by default those of the rows "
        "and the tests. Without placements every test runs twice, with all tenants pooled and with tables.",
    )
    fixtures: Fixtures = Field(
        default={},
        description="Rows of each datasource: an NDJSON or CSV file, relative to the test file, or a list.",
    )
    tolerance: Tolerance = Field(
        default=DEFAULT_TOLERANCE,
        description="Tolerance for floating-point numbers, relative to the larger one if that exceeds 1.",
    )
    tests: Annotated[tuple[Case, ...], Field(min_length=1)] = Field(description="Calls with their results.")

    @property
    def file(self) -> str:
        """The path of the file, as shown in messages."""
        return self.place.file or ""

    @property
    def placed(self) -> bool:
        """Whether the file gives tenants their placements."""
        return any(placement for _, placement in self.tenants)

    def fixture_place(self, datasource: str) -> Place:
        """Where a fixture is declared."""
        fixtures = self._keys.get("fixtures") if self._keys else None
        if self._keys is None or not isinstance(fixtures, YamlMapping) or datasource not in fixtures:
            return self.place
        return self._keys.source.place(fixtures.key_locations[datasource])
