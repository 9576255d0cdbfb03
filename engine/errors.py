"""Every error of the product: one exception tree with stable codes.

A code belongs to the stage that raises it: RK1xxx project files, RK2xxx compiler, RK3xxx plan, push and
tenants, RK4xxx requests and tokens, RK5xxx ingestion, RK6xxx the database, RK7xxx command line and settings.
The meaning of every code is documented in `docs/errors.md`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Code:
    """A stable error code: its identifier, the HTTP status it maps to, and a short title."""

    id: str
    status: int
    title: str


@dataclass(frozen=True, slots=True)
class Place:
    """Where an error stands: a file with a position (1-based), or a named part of the workspace."""

    file: str | None = None
    line: int | None = None
    column: int | None = None
    part: str | None = None

    def __str__(self) -> str:
        position = ":".join(str(x) for x in (self.file, self.line, self.column) if x is not None)
        return ", ".join(x for x in (position, self.part) if x)


class RookeryError(Exception):
    """An error that a user can act on: `code`, `message`, optional `hint` and `place`.

    `detail` is for the operator's log only and never reaches a caller.
    """

    def __init__(
        self,
        code: Code,
        message: str,
        *,
        hint: str | None = None,
        place: Place | None = None,
        detail: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.place = place
        self.detail = detail
        self.headers = dict(headers or {})

    def as_dict(self) -> dict[str, Any]:
        """The error as plain data for JSON, with absent parts left out."""
        found: dict[str, Any] = {"code": self.code.id, "error": self.message}
        if self.hint:
            found["hint"] = self.hint
        if self.place:
            found["place"] = str(self.place)
        return found

    def __str__(self) -> str:
        place = f"{self.place}: " if self.place else ""
        hint = f" ({self.hint})" if self.hint else ""
        return f"{place}{self.code.id} {self.message}{hint}"


class Problems(RookeryError):
    """Several errors found in one go, reported together."""

    def __init__(self, problems: Iterable[RookeryError]) -> None:
        self.problems = list(problems)
        first = self.problems[0]
        count = len(self.problems)
        super().__init__(
            first.code,
            first.message if count == 1 else f"{count} problems; the first: {first.message}",
            hint=first.hint,
            place=first.place,
        )

    def as_dict(self) -> dict[str, Any]:
        return {**super().as_dict(), "errors": [p.as_dict() for p in self.problems]}

    def __str__(self) -> str:
        return "\n".join(str(p) for p in self.problems)


@dataclass(slots=True)
class Collector:
    """Gathers problems so that all are reported at once."""

    problems: list[RookeryError] = field(default_factory=list)

    def add(self, problem: RookeryError) -> None:
        if isinstance(problem, Problems):
            self.problems.extend(problem.problems)
        else:
            self.problems.append(problem)

    def raise_if_any(self) -> None:
        if self.problems:
            raise Problems(self.problems)


# --- RK1xxx: project files ---------------------------------------------------------------------------------------
BAD_YAML = Code("RK1001", 400, "not valid YAML")
DUPLICATE_KEY = Code("RK1002", 400, "key given twice")
UNKNOWN_KEY = Code("RK1003", 400, "unknown key")
MISSING_KEY = Code("RK1004", 400, "required key missing")
BAD_VALUE = Code("RK1005", 400, "value of the wrong kind")
BAD_NAME = Code("RK1006", 400, "name not allowed")
DUPLICATE_NAME = Code("RK1007", 400, "two resources of one name")
NO_FILE = Code("RK1008", 400, "file missing or unreadable")
UNKNOWN_COLUMN = Code("RK1009", 400, "column not declared")
UNKNOWN_TABLE = Code("RK1010", 400, "unknown datasource, pipe or node")
CYCLE = Code("RK1011", 400, "resources depend on each other in a circle")
TENANT_COLUMN = Code("RK1012", 400, "tenant column missing or unusable")
SORTING_KEY = Code("RK1013", 400, "sorting key unusable")
LANDING_LAYOUT = Code("RK1014", 400, "not possible for a landing datasource")
TARGET_CLASH = Code("RK1015", 400, "materialized target used in a conflicting way")
BAD_TYPE = Code("RK1016", 400, "column type does not exist")
UNKNOWN_KIND = Code("RK1017", 400, "file is neither a datasource nor a pipe")

# --- RK2xxx: compiler --------------------------------------------------------------------------------------------
SQL_SYNTAX = Code("RK2001", 400, "SQL cannot be parsed")
SQL_REFUSED = Code("RK2002", 400, "SQL construct not allowed")
FUNCTION_REFUSED = Code("RK2003", 400, "function not allowed")
TABLE_REFUSED = Code("RK2004", 403, "table not readable here")
TEMPLATE = Code("RK2005", 400, "template cannot be rendered")
PARAMETER_CLASH = Code("RK2006", 400, "parameter declared twice with different types")
SQL_SEMANTICS = Code("RK2007", 400, "SQL is not valid against the data")
TENANT_OUTPUT = Code("RK2008", 400, "per-tenant pipe must output the tenant column")
VIEW_SHAPE = Code("RK2009", 400, "query cannot be a materialized view")
TENANT_KEY = Code("RK2010", 400, "tenant selected by an unprotected parameter")
TARGET_COLUMNS = Code("RK2011", 400, "query output does not fit the target")
IDENTIFIER = Code("RK2012", 400, "identifier not in the datasource")
TENANT_MIX = Code("RK2013", 400, "per-tenant pipe could mix tenants")
UNDECLARED_SHARE = Code("RK2014", 400, "tenants' rows without their tenant")
SHARED_GROUPS = Code("RK2015", 400, "groups cannot be shared with a minimum of tenants")
ONE_TENANT_FOR_ALL = Code("RK2016", 400, "endpoint gives one tenant's rows to others")
POOLED_ONLY = Code("RK2017", 400, "pipe sees the rows of pooled tenants only")
BRANCH = Code("RK2020", 400, "branch of a template names what does not exist")
SAMPLE = Code("RK2021", 400, "node not checked for want of a sample value")
SHORT_LIFE = Code("RK2023", 400, "TTL ends beyond the calendar of its type")
CHANGE_REFUSED = Code("RK2030", 400, "change of a table that the database refuses")
BAD_DECLARATION = Code("RK2022", 400, "declaration of a parameter does not match the template")

# --- RK3xxx: plan, push, tenants ---------------------------------------------------------------------------------
DESTRUCTIVE = Code("RK3001", 409, "change needs permission by name")
FOREIGN_OBJECT = Code("RK3002", 409, "object exists and is not ours")
DEPENDENTS = Code("RK3003", 409, "other resources depend on it")
UNKNOWN_TENANT = Code("RK3004", 404, "tenant does not exist")
BAD_TENANT_ID = Code("RK3005", 400, "tenant id not canonical")
PLACEMENT = Code("RK3006", 409, "tenant has another placement")
UNKNOWN_RESOURCE = Code("RK3007", 404, "resource does not exist")
AMBIGUOUS_NODE = Code("RK3008", 400, "which node is not clear")
APPLY_FAILED = Code("RK3010", 500, "a step of the plan failed")
TARGET_EXISTS = Code("RK3011", 409, "target exists with another shape")
STILL_FAILING = Code("RK3012", 409, "a view that was taken down would fail again")
MISSED_EXPIRED = Code("RK3014", 409, "rows that a suspended view has missed are gone from its source")
KEEPS_NOTHING = Code("RK3035", 409, "a target cannot be kept as it is")
VIEW_WAITS = Code("RK3030", 409, "a view waits until its tenant has caught up")
NOT_TOGETHER = Code("RK3013", 409, "all tenants' rows cannot be read together")

# --- RK4xxx: requests and tokens ---------------------------------------------------------------------------------
NO_TOKEN = Code("RK4001", 403, "token missing")
BAD_TOKEN = Code("RK4002", 403, "token not valid")
SCOPE = Code("RK4003", 403, "token lacks the scope")
NO_TENANT = Code("RK4004", 403, "token selects no tenant")
TENANT_FROM_QUERY = Code("RK4005", 403, "tenant cannot be chosen by the caller")
BAD_PARAMETER = Code("RK4006", 400, "parameter not valid")
MISSING_PARAMETER = Code("RK4007", 400, "required parameter missing")
UNKNOWN_PIPE = Code("RK4008", 404, "no such endpoint")
BAD_REQUEST = Code("RK4009", 400, "request not understood")
TOO_MANY = Code("RK4010", 429, "too many queries at once")
TIMEOUT = Code("RK4011", 408, "query took too long")
RESULT_LIMIT = Code("RK4012", 400, "result or memory limit exceeded")
QUERY_FAILED = Code("RK4013", 400, "query failed")
BAD_FORMAT = Code("RK4014", 404, "unknown output format")
BAD_FILTER = Code("RK4015", 403, "token filter not usable")
TOKEN_EXISTS = Code("RK4016", 409, "token of that name exists")
UNKNOWN_TOKEN = Code("RK4017", 404, "no such token")
BAD_SCOPE = Code("RK4018", 400, "scope not understood")
NOT_FOUND = Code("RK4019", 404, "no such route")
METHOD = Code("RK4020", 405, "method not allowed")
CUSTOM = Code("RK4021", 400, "error raised by the pipe")
HEAD_TOO_LARGE = Code("RK4022", 431, "headers too large")
REQUEST_LINE_TOO_LONG = Code("RK4023", 414, "request line too long")
TOO_SLOW = Code("RK4024", 408, "request came too slowly")
BAD_HTTP = Code("RK4025", 400, "not valid HTTP")
TOO_MANY_CONNECTIONS = Code("RK4026", 503, "too many connections")
CANCELLED = Code("RK4027", 503, "query was cancelled")
BODY_TYPE = Code("RK4028", 415, "type of the body not understood")
UNKNOWN_FIELD = Code("RK4029", 400, "unknown key or parameter")
TOO_COMPLEX = Code("RK4040", 400, "query too complex")

# --- RK5xxx: ingestion -------------------------------------------------------------------------------------------
BAD_ROW = Code("RK5001", 400, "row cannot be stored")
FOREIGN_TENANT = Code("RK5003", 403, "row belongs to another tenant")
TOO_LARGE = Code("RK5004", 413, "request body too large")
UNKNOWN_DATASOURCE = Code("RK5005", 404, "no such datasource")
NOT_WRITABLE = Code("RK5006", 400, "datasource takes no rows from outside")
BAD_ENCODING = Code("RK5007", 400, "body cannot be decoded")
KEY_REUSED = Code("RK5008", 422, "idempotency key used for another body")
UNKNOWN_RECEIPT = Code("RK5009", 404, "no receipt of that key")
QUEUE_FULL = Code("RK5010", 429, "too much waits to be stored")
UNDELIVERED = Code("RK5011", 500, "stored, but a view failed on it")
NOT_REPLACEABLE = Code("RK5012", 409, "rows cannot be replaced")
IN_DOUBT = Code("RK5013", 503, "an earlier batch is not complete yet")
QUARANTINE_FULL = Code("RK5017", 429, "bad rows refused: the writer's quarantine is full")
UNKNOWN_COLUMNS = Code("RK5018", 400, "file has columns that a strict datasource lacks")
MEDIA_TYPE = Code("RK5019", 415, "content type not understood")
PARQUET_TOO_LARGE = Code("RK5030", 413, "Parquet file opens to too much")

# --- RK6xxx: the database ----------------------------------------------------------------------------------------
DIRECTORY_BUSY = Code("RK6001", 503, "data directory held by another process")
UNREACHABLE = Code("RK6002", 503, "ClickHouse cannot be reached")
BUSY = Code("RK6003", 503, "no database handle free")
ENGINE = Code("RK6004", 400, "database refused the statement")
ENGINE_INTERNAL = Code("RK6005", 500, "database failed")
AUTHENTICATION = Code("RK6006", 503, "ClickHouse refused the credentials")
CLOSED = Code("RK6007", 503, "warehouse is closed")
DISK_FULL = Code("RK6008", 507, "disk is full")
STORAGE = Code("RK6009", 503, "disk or file system failed")
OVERLOADED = Code("RK6010", 503, "database cannot take rows at present")
DAMAGED = Code("RK6011", 500, "stored data is damaged")
LAYOUT_NEWER = Code("RK6013", 503, "written by a newer rookery")
LAYOUT_UNREADABLE = Code("RK6014", 503, "layout version cannot be read")
MIGRATION_FAILED = Code("RK6015", 503, "stored layout could not be migrated")
ISOLATION = Code("RK6017", 500, "a check of isolation failed")

# --- RK7xxx: command line and settings ---------------------------------------------------------------------------
SETTING = Code("RK7001", 400, "setting not valid")
USAGE = Code("RK7002", 400, "command not understood")
NO_SERVER = Code("RK7003", 503, "server cannot be reached")
NOT_A_PROJECT = Code("RK7004", 400, "no project here")
REMOTE = Code("RK7005", 502, "server answered unexpectedly")
INTERNAL = Code("RK7006", 500, "internal error")
NO_DATABASE = Code("RK7007", 404, "no database here")
ZONE = Code("RK7010", 409, "another time zone than the stored one")


def codes() -> dict[str, Code]:
    """All codes by identifier."""
    return {value.id: value for value in globals().values() if isinstance(value, Code)}
