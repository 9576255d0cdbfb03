"""All errors: one exception hierarchy with stable codes.

The first digit of a code is the stage that raises it: RK1xxx project files, RK2xxx compiler, RK3xxx plan, push and
tenants, RK4xxx requests and tokens, RK5xxx ingestion, RK6xxx database, RK7xxx command line and settings.
`docs/errors.md` explains every code.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

PUBLISHED_PAGES = "https://github.com/rookery-analytics/rookery/blob/main/docs/errors.md"
"""The page of the project's repository that explains all codes."""


@dataclass(frozen=True, slots=True)
class Code:
    """A stable error code."""

    id: str
    """`RK` and four digits. The first digit is the stage that raises it."""
    status: int
    """The HTTP status of a response with this error."""
    title: str
    """The meaning in a few words, as in `docs/errors.md`."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an error is: a position in a file (lines and columns start at 1), or a named part of the workspace."""

    file: str | None = None
    line: int | None = None
    column: int | None = None
    part: str | None = None
    """The part of the file that has the error, such as a pipe's node; shown after the position."""

    def __bool__(self) -> bool:
        return bool(str(self))

    def __str__(self) -> str:
        position = ":".join(str(x) for x in (self.file, self.line, self.column) if x is not None)
        return ", ".join(x for x in (position, self.part) if x)


def published_page(code: Code) -> str:
    """The URL of a code's explanation in the project's repository."""
    return f"{PUBLISHED_PAGES}#{code.id.lower()}"


class RookeryError(Exception):
    """An error that a user can act on: `code`, `message`, optional `hint` and `place`.

    `detail` is only for the operator's log and never reaches a caller. `headers` are added to an HTTP response.
    `public` is the message for callers who may not read all rows; set it if `message` may quote values of rows.
    """

    documentation: str | None = None
    """URL of the page that explains the code, if a server sent it with the error."""

    def __init__(
        self,
        code: Code,
        message: str,
        *,
        hint: str | None = None,
        place: Place | None = None,
        detail: str | None = None,
        headers: Mapping[str, str] | None = None,
        public: str | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.public = message if public is None else public
        self.hint = hint
        self.place = place
        self.detail = detail
        self.headers = dict(headers or {})

    @property
    def is_server_fault(self) -> bool:
        """Whether the server or its database failed, rather than the request (status 500 and above)."""
        return self.code.status >= 500

    def with_hint(self, hint: str) -> RookeryError:
        """The same error with another hint. Several requests may have failed with one error, so it is not changed."""
        return RookeryError(
            self.code,
            self.message,
            hint=hint,
            place=self.place,
            detail=self.detail,
            headers=self.headers,
            public=self.public,
        )

    def as_dict(self, *, public: bool = False) -> dict[str, Any]:
        """The error as plain data for JSON, without parts that are absent; with `public`, for any caller."""
        body: dict[str, Any] = {"code": self.code.id, "error": self.public if public else self.message}
        if self.hint:
            body["hint"] = self.hint
        if self.place:
            body["place"] = str(self.place)
        return body

    def __str__(self) -> str:
        place = f"{self.place}: " if self.place else ""
        hint = f" ({self.hint})" if self.hint else ""
        return f"{place}{self.code.id} {self.message}{hint}"


MAX_SUGGESTED_FROM = 1000
"""Known names that a misspelled one is compared with. Comparing takes some 10 microseconds for each."""


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name that is most similar to a misspelled one, or None if none is similar.

    A name that differs in case only wins. `cutoff` is the least similarity, from 0 to 1. `known` must have only names
    that the recipient of the error may see.
    """
    from difflib import get_close_matches

    wanted = name[:100].lower()
    spellings = {other.lower(): other for other in sorted(known, reverse=True)}
    if wanted in spellings:
        return spellings[wanted] if spellings[wanted] != name else None
    candidates = sorted(spellings)
    if len(candidates) > MAX_SUGGESTED_FROM:
        candidates = [c for c in candidates if c[:1] == wanted[:1]][:MAX_SUGGESTED_FROM]
    near = get_close_matches(wanted, candidates, n=1, cutoff=cutoff)
    return spellings[near[0]] if near else None


def did_you_mean(name: str, known: Iterable[str], otherwise: str | None = None) -> str | None:
    """The hint that suggests the most similar known name; `otherwise` if none is similar."""
    near = nearest(name, known)
    return f"did you mean `{near}`?" if near else otherwise


def shown(raw: object, limit: int = 80) -> str:
    """Format an untrusted value for a message: shortened, without unprintable characters, strings in double
    quotes.
    """
    text = raw if isinstance(raw, str) else _json_text(raw)
    cut = text[:limit]
    safe = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in cut) + ("…" if len(text) > limit else "")
    return f'"{safe}"' if isinstance(raw, str) else safe


def _json_text(raw: object) -> str:
    if isinstance(raw, int) and not isinstance(raw, bool) and raw.bit_length() > 1000:
        return "an integer of more than 300 digits"
    try:
        return json.dumps(raw, ensure_ascii=False, default=lambda x: str(x) if isinstance(x, Decimal) else "…")
    except (ValueError, RecursionError):
        return "a value that cannot be displayed"


class Problems(RookeryError):
    """Several errors that are reported together. It has the code, hint and place of the first."""

    def __init__(self, problems: Iterable[RookeryError]) -> None:
        self.problems = list(problems)
        first = self.problems[0]
        before = "" if len(self.problems) == 1 else f"{len(self.problems)} problems; the first: "
        super().__init__(
            first.code,
            before + first.message,
            hint=first.hint,
            place=first.place,
            public=before + first.public,
        )

    def as_dict(self, *, public: bool = False) -> dict[str, Any]:
        return {**super().as_dict(public=public), "errors": [p.as_dict(public=public) for p in self.problems]}

    def __str__(self) -> str:
        return "\n".join(str(p) for p in self.problems)


@dataclass(slots=True)
class Collector:
    """Collects problems, so that they can be reported together."""

    problems: list[RookeryError] = field(default_factory=list)

    def add(self, problem: RookeryError) -> None:
        """Add a problem; of `Problems`, add each one."""
        if isinstance(problem, Problems):
            self.problems.extend(problem.problems)
        else:
            self.problems.append(problem)

    def raise_if_any(self) -> None:
        if self.problems:
            raise Problems(self.problems)


# --- RK1xxx: project files ---------------------------------------------------------------------------------------
BAD_YAML = Code("RK1001", 400, "invalid YAML")
DUPLICATE_KEY = Code("RK1002", 400, "duplicate key")
UNKNOWN_KEY = Code("RK1003", 400, "unknown key")
MISSING_KEY = Code("RK1004", 400, "required key missing")
BAD_VALUE = Code("RK1005", 400, "invalid value")
BAD_NAME = Code("RK1006", 400, "name not allowed")
DUPLICATE_NAME = Code("RK1007", 400, "two resources with the same name")
NO_FILE = Code("RK1008", 400, "file missing or unreadable")
UNKNOWN_COLUMN = Code("RK1009", 400, "column not declared")
UNKNOWN_TABLE = Code("RK1010", 400, "unknown datasource, pipe or node")
CYCLE = Code("RK1011", 400, "circular dependency between resources")
TENANT_COLUMN = Code("RK1012", 400, "tenant column missing or unusable")
SORTING_KEY = Code("RK1013", 400, "sorting key unusable")
LANDING_LAYOUT = Code("RK1014", 400, "not possible for a landing datasource")
TARGET_CLASH = Code("RK1015", 400, "conflicting use of a materialized target")
BAD_TYPE = Code("RK1016", 400, "column type does not exist")
UNKNOWN_KIND = Code("RK1017", 400, "file is neither a datasource nor a pipe")
OVERLOOKED = Code("RK1018", 400, "file or folder not read")

# --- RK2xxx: compiler --------------------------------------------------------------------------------------------
SQL_SYNTAX = Code("RK2001", 400, "SQL cannot be parsed")
SQL_REFUSED = Code("RK2002", 400, "SQL construct not allowed")
FUNCTION_REFUSED = Code("RK2003", 400, "function not allowed")
TABLE_REFUSED = Code("RK2004", 403, "table not readable here")
TEMPLATE = Code("RK2005", 400, "template cannot be rendered")
PARAMETER_CLASH = Code("RK2006", 400, "parameter declared twice with different types")
SQL_SEMANTICS = Code("RK2007", 400, "SQL is not valid for these tables")
TENANT_OUTPUT = Code("RK2008", 400, "per-tenant pipe must output the tenant column")
VIEW_SHAPE = Code("RK2009", 400, "query cannot be a materialized view")
TENANT_KEY = Code("RK2010", 400, "tenant selected by an unprotected parameter")
TARGET_COLUMNS = Code("RK2011", 400, "query output does not fit the target")
IDENTIFIER = Code("RK2012", 400, "identifier not in the datasource")
TENANT_MIX = Code("RK2013", 400, "per-tenant pipe could mix tenants")
UNDECLARED_SHARE = Code("RK2014", 400, "tenants' rows shared without a declaration")
SHARED_GROUPS = Code("RK2015", 400, "groups cannot have a minimum number of tenants")
ONE_TENANT_FOR_ALL = Code("RK2016", 400, "endpoint would return one tenant's rows to others")
POOLED_ONLY = Code("RK2017", 400, "pipe reads only the rows of pooled tenants")
BRANCH = Code("RK2020", 400, "template branch refers to something that does not exist")
SAMPLE = Code("RK2021", 400, "node not checked because a sample value is missing")
SHORT_LIFE = Code("RK2023", 400, "TTL exceeds the range of its date type")
RAW_STATE = Code("RK2024", 400, "endpoint returns the state of an aggregate function")
CHANGE_REFUSED = Code("RK2030", 400, "database refuses to change the table")
BAD_DECLARATION = Code("RK2022", 400, "parameter declaration does not match the template")

# --- RK3xxx: plan, push, tenants ---------------------------------------------------------------------------------
DESTRUCTIVE = Code("RK3001", 409, "destructive change must be allowed by name")
FOREIGN_OBJECT = Code("RK3002", 409, "object exists but does not belong to rookery")
DEPENDENTS = Code("RK3003", 409, "other resources depend on it")
UNKNOWN_TENANT = Code("RK3004", 404, "tenant does not exist")
BAD_TENANT_ID = Code("RK3005", 400, "tenant id not in canonical form")
PLACEMENT = Code("RK3006", 409, "tenant has another placement")
UNKNOWN_RESOURCE = Code("RK3007", 404, "resource does not exist")
AMBIGUOUS_NODE = Code("RK3008", 400, "ambiguous node")
APPLY_FAILED = Code("RK3010", 500, "step of the plan failed")
TARGET_EXISTS = Code("RK3011", 409, "target exists with a different definition")
STILL_FAILING = Code("RK3012", 409, "suspended view would fail again")
MISSED_EXPIRED = Code("RK3014", 409, "source no longer has rows that a suspended view missed")
KEEPS_NOTHING = Code("RK3035", 409, "target cannot be kept unchanged")
VIEW_WAITS = Code("RK3030", 409, "view is waiting for its tenant to catch up")
NOT_TOGETHER = Code("RK3013", 409, "rows of all tenants cannot be read together")

# --- RK4xxx: requests and tokens ---------------------------------------------------------------------------------
NO_TOKEN = Code("RK4001", 403, "token missing")
BAD_TOKEN = Code("RK4002", 403, "invalid token")
SCOPE = Code("RK4003", 403, "token lacks the scope")
NO_TENANT = Code("RK4004", 403, "token selects no tenant")
TENANT_FROM_QUERY = Code("RK4005", 403, "caller cannot choose the tenant")
BAD_PARAMETER = Code("RK4006", 400, "invalid parameter")
MISSING_PARAMETER = Code("RK4007", 400, "required parameter missing")
UNKNOWN_PIPE = Code("RK4008", 404, "no such endpoint")
BAD_REQUEST = Code("RK4009", 400, "malformed request")
TOO_MANY = Code("RK4010", 429, "too many queries at once")
TIMEOUT = Code("RK4011", 408, "query took too long")
RESULT_LIMIT = Code("RK4012", 400, "result or memory limit exceeded")
QUERY_FAILED = Code("RK4013", 400, "query failed")
BAD_FORMAT = Code("RK4014", 404, "unknown output format")
BAD_FILTER = Code("RK4015", 403, "invalid token filter")
TOKEN_EXISTS = Code("RK4016", 409, "token with this name already exists")
UNKNOWN_TOKEN = Code("RK4017", 404, "no such token")
BAD_SCOPE = Code("RK4018", 400, "invalid scope")
NOT_FOUND = Code("RK4019", 404, "no such route")
METHOD = Code("RK4020", 405, "method not allowed")
CUSTOM = Code("RK4021", 400, "error raised by the pipe")
HEAD_TOO_LARGE = Code("RK4022", 431, "headers too large")
REQUEST_LINE_TOO_LONG = Code("RK4023", 414, "request line too long")
TOO_SLOW = Code("RK4024", 408, "request arrived too slowly")
BAD_HTTP = Code("RK4025", 400, "invalid HTTP")
TOO_MANY_CONNECTIONS = Code("RK4026", 503, "too many connections")
CANCELLED = Code("RK4027", 503, "query was cancelled")
BODY_TYPE = Code("RK4028", 415, "unsupported type of body")
UNKNOWN_FIELD = Code("RK4029", 400, "unknown key or parameter")
TENANT_CHANGING = Code("RK4030", 503, "tenant is being added or removed")
TOO_COMPLEX = Code("RK4040", 400, "query too complex")
STOPPING = Code("RK4041", 503, "server is stopping")

# --- RK5xxx: ingestion -------------------------------------------------------------------------------------------
BAD_ROW = Code("RK5001", 400, "row cannot be stored")
FOREIGN_TENANT = Code("RK5003", 403, "row belongs to another tenant")
TOO_LARGE = Code("RK5004", 413, "request body too large")
UNKNOWN_DATASOURCE = Code("RK5005", 404, "no such datasource")
NOT_WRITABLE = Code("RK5006", 400, "datasource does not accept rows")
BAD_ENCODING = Code("RK5007", 400, "body cannot be decoded")
KEY_REUSED = Code("RK5008", 422, "idempotency key already used for another body")
UNKNOWN_RECEIPT = Code("RK5009", 404, "no receipt for this key")
QUEUE_FULL = Code("RK5010", 429, "too many rows waiting to be stored")
UNDELIVERED = Code("RK5011", 500, "rows stored, but a view failed on them")
NOT_REPLACEABLE = Code("RK5012", 409, "rows cannot be replaced")
IN_DOUBT = Code("RK5013", 503, "an earlier batch is not yet complete")
QUARANTINE_FULL = Code("RK5017", 429, "bad rows refused: the writer's quarantine is full")
UNKNOWN_COLUMNS = Code("RK5018", 400, "file has columns that a strict datasource lacks")
MEDIA_TYPE = Code("RK5019", 415, "unsupported content type")
PARQUET_TOO_LARGE = Code("RK5030", 413, "Parquet file is too large when decompressed")

# --- RK6xxx: the database ----------------------------------------------------------------------------------------
DIRECTORY_BUSY = Code("RK6001", 503, "data directory held by another process")
UNREACHABLE = Code("RK6002", 503, "ClickHouse cannot be reached")
BUSY = Code("RK6003", 503, "no free database handle")
ENGINE = Code("RK6004", 400, "database refused the statement")
ENGINE_INTERNAL = Code("RK6005", 500, "database failed")
AUTHENTICATION = Code("RK6006", 503, "ClickHouse refused the credentials")
CLOSED = Code("RK6007", 503, "warehouse is closed")
DISK_FULL = Code("RK6008", 507, "disk is full")
STORAGE = Code("RK6009", 503, "disk or file system failed")
OVERLOADED = Code("RK6010", 503, "database cannot store rows at the moment")
DAMAGED = Code("RK6011", 500, "stored data is damaged")
LAYOUT_NEWER = Code("RK6013", 503, "written by a newer rookery")
LAYOUT_UNREADABLE = Code("RK6014", 503, "layout version cannot be read")
MIGRATION_FAILED = Code("RK6015", 503, "stored layout could not be migrated")
ISOLATION = Code("RK6017", 500, "isolation check failed")
BACKUP_RUNNING = Code("RK6020", 409, "a backup is already running")
NOT_EMBEDDED = Code("RK6021", 400, "only for the embedded engine")
RESTORED_TABLES = Code("RK6022", 503, "tables were restored with other block numbers")
NOT_DELIVERED = Code("RK6023", 503, "rows are still on their way")
RESTORE_UNFINISHED = Code("RK6024", 503, "restore is not complete")
BACKUP_REFUSED = Code("RK6025", 400, "tables or destination cannot be used for a backup")

# --- RK7xxx: command line and settings ---------------------------------------------------------------------------
SETTING = Code("RK7001", 400, "invalid setting")
USAGE = Code("RK7002", 400, "invalid command")
NO_SERVER = Code("RK7003", 503, "server cannot be reached")
NOT_A_PROJECT = Code("RK7004", 400, "no project here")
REMOTE = Code("RK7005", 502, "unexpected response from the server")
INTERNAL = Code("RK7006", 500, "internal error")
NO_DATABASE = Code("RK7007", 404, "no database here")
UNTRUSTED = Code("RK7008", 403, "URL that others may have chosen")
BACKUP_DAMAGED = Code("RK7020", 400, "backup is damaged or incomplete")
ALREADY_EXISTS = Code("RK7021", 409, "file or directory already exists")
BACKUP_UNUSABLE = Code("RK7022", 500, "restored backup cannot be opened")
ZONE = Code("RK7010", 409, "time zone differs from that of the stored rows")


def codes() -> dict[str, Code]:
    """All codes by identifier."""
    return {value.id: value for value in globals().values() if isinstance(value, Code)}
