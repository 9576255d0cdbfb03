"""Settings of the server and the command line, from environment variables and flags.

Every field has an environment variable `ROOKERY_<FIELD>` and is documented in `docs/settings.md`. No other module
reads the environment.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Collection
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_core import ErrorDetails

from engine.errors import SETTING, Code, RookeryError, published_page
from engine.machine_memory import machine_memory

MIB = 1 << 20
PREFIX = "ROOKERY_"
"""Prefix of the environment variables with settings."""
COLUMN_BUFFER_BYTES = 16 * MIB
"""What the engine may reserve to write one column of a large part, in the datasource's table and in copies."""
COMMIT_MEMORY_FACTOR, MIN_COMMIT_MEMORY_BYTES = 4, 512 * MIB
"""Storing a batch, with sorted copies and the blocks of views, takes up to four times the bytes of its bodies, and
reading it at least these bytes.
"""
_ZONE = re.compile(r"[A-Za-z][A-Za-z0-9_+/-]{0,63}")
_WEB_URL = re.compile(r"https?://[^\s<>\"]{1,2000}")
_WORKSPACE = re.compile(r"[a-z][a-z0-9]{0,29}")

_UTC = frozenset(
    f"{area}{name}"
    for area in ("", "Etc/")
    for name in ("UTC", "UCT", "Universal", "Zulu", "GMT", "GMT0", "GMT+0", "GMT-0", "Greenwich")
)
# Files in the zone directory that are not zones with the same meaning on every host.
_HOST_ONLY = ("localtime", "posixrules", "Factory", "posix/", "right/")


def canonical_zone(name: str) -> str:
    """The IANA name of a time zone; all names of UTC become `UTC`. Raises ValueError if the zone does not exist."""
    if name in _UTC:
        return "UTC"
    try:
        if not _ZONE.fullmatch(name) or name.startswith(_HOST_ONLY):
            raise ValueError(name)
        ZoneInfo(name)
    except (ValueError, LookupError, OSError) as exc:
        raise ValueError(f"`{name[:64]}` is not the name of a time zone, such as UTC or Europe/Berlin") from exc
    return name


class Settings(BaseModel):
    """All settings, validated once at start."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    workspace: str = Field("main", description="Name of the workspace and of its database.")
    data: Path = Field(Path(".rookery/data"), description="Data directory of the embedded engine.")
    timezone: str | None = Field(
        None, description="Time zone of a new workspace, such as `Europe/Berlin`; UTC by default."
    )
    clickhouse_url: str | None = Field(
        None, description="URL of a ClickHouse server; by default, the embedded engine is used."
    )
    clickhouse_user: str = Field("default", description="ClickHouse user for DDL and inserts.")
    clickhouse_password: SecretStr = Field(SecretStr(""), description="Password of this user.")
    clickhouse_reader_user: str | None = Field(
        None, description="ClickHouse user for queries; by default, the same user as for inserts."
    )
    clickhouse_reader_password: SecretStr = Field(SecretStr(""), description="Password of this user.")
    host: str = Field("127.0.0.1", description="Address that `rookery serve` listens on.")
    port: int = Field(
        7181, ge=0, le=65535, description="Port that `rookery serve` listens on; 0 chooses any free port."
    )
    public_url: str | None = Field(None, description="Base URL that callers use, if it differs behind a proxy.")
    docs_url: str | None = Field(
        None,
        description="Base URL of the documentation that errors link to; by default `/docs` under `public_url`, or "
        "the project's repository.",
    )
    admin_token: SecretStr | None = Field(None, description="Admin token; by default, one is created on first use.")
    url: str | None = Field(None, description="URL of the rookery server that the command line connects to.")
    token: SecretStr | None = Field(None, description="Token that the command line sends to this server.")
    readers: int = Field(8, ge=1, le=256, description="Number of database handles for queries.")
    writers: int = Field(8, ge=2, le=64, description="Number of database handles for inserts and DDL.")
    borrow_timeout: float = Field(
        5.0, gt=0, description="Maximum time that a request waits for a database handle, in seconds."
    )
    max_seconds: float = Field(10.0, gt=0, description="Maximum duration of a query, in seconds.")
    max_memory: int = Field(2048 * MIB, gt=0, description="Maximum memory of a query, in bytes.")
    max_total_memory: int = Field(
        0, ge=0, description="Maximum memory of all queries together, in bytes; 0 means half of the machine's memory."
    )
    readers_per_caller: int = Field(
        0, ge=0, description="Maximum number of readers for one tenant's queries; 0 means three quarters of them."
    )
    max_rows: int = Field(50_000_000, gt=0, description="Maximum number of rows in a query's result.")
    stuck_seconds: float = Field(
        5.0, gt=0, description="Seconds that a query may exceed its time limit before its reader counts as stuck."
    )
    max_nests: int = Field(200, ge=0, description="Maximum number of nests that a query across all tenants can read.")
    max_concurrent: int = Field(
        100, gt=0, description="Maximum number of concurrent queries per token, and per tenant."
    )
    token_leeway: float = Field(
        60.0, ge=0, description="Tolerated difference between clocks for `iat` and `nbf`, in seconds."
    )
    max_token_seconds: int = Field(366 * 86_400, gt=0, description="Maximum remaining lifetime of a JWT, in seconds.")
    max_body: int = Field(64 * MIB, gt=0, description="Maximum size of a request body, in bytes.")
    max_parquet_memory: int = Field(
        2048 * MIB, ge=256 * MIB, description="Maximum memory to read a large Parquet file, in bytes."
    )
    max_parquet_bytes: int = Field(
        64 << 30, gt=0, description="Maximum size of the rows in a large Parquet file, decompressed, in bytes."
    )
    max_waiting: int = Field(512 * MIB, gt=0, description="Maximum size of all rows waiting to be stored, in bytes.")
    max_insert_memory: int = Field(
        0,
        ge=0,
        description="Maximum memory to parse a batch of rows, in bytes; 0 means a quarter of "
        "`max_total_insert_memory`, but at most 1 GiB.",
    )
    max_total_insert_memory: int = Field(
        0,
        ge=0,
        description="Maximum memory to parse all batches, in bytes; 0 means a quarter of the machine's memory.",
    )
    max_backfill_memory: int = Field(
        0,
        ge=0,
        description="Maximum memory to deliver a range of history, in bytes; 0 means at least 1 GiB (see Limits).",
    )
    min_free: int | None = Field(
        None,
        ge=0,
        description="Free disk space below which rows are refused, in bytes; by default 5% of the disk, but at most "
        "256 MiB.",
    )
    wait_seconds: float = Field(
        30.0,
        ge=0,
        description="Maximum time that a command waits while another process holds the data directory, in seconds.",
    )
    search_rows: int = Field(
        1000,
        ge=0,
        description="Maximum number of bad rows per request for which the exact reason is determined; the others get "
        "a general reason.",
    )
    search_tries: int = Field(
        200,
        ge=0,
        description="Maximum number of failed inserts while searching a batch for bad rows; after that, the rest of "
        "the batch goes to quarantine.",
    )
    quarantine_rows: int = Field(
        100_000, ge=0, description="Maximum number of rows per writer in a datasource's quarantine."
    )
    quarantine_bytes: int = Field(
        256 * MIB, ge=0, description="Maximum size of a writer's rows in a datasource's quarantine, in bytes."
    )
    visible_seconds: float = Field(30.0, gt=0, description="Maximum time that `wait=visible` waits, in seconds.")
    max_request_line: int = Field(61_440, ge=1024, description="Maximum length of a request's URL, in bytes.")
    max_headers: int = Field(100, ge=10, description="Maximum number of headers in a request.")
    max_header_bytes: int = Field(65_536, ge=1024, description="Maximum size of a request's headers, in bytes.")
    header_seconds: float = Field(15.0, gt=0, description="Maximum time to receive a request's headers, in seconds.")
    body_seconds: float = Field(30.0, gt=0, description="Maximum pause while receiving a request's body, in seconds.")
    idle_seconds: float = Field(
        30.0, gt=0, description="How long a connection stays open between requests, in seconds."
    )
    send_seconds: float = Field(
        60.0, gt=0, description="Maximum time that a client may stop reading a response, in seconds."
    )
    max_connections: int = Field(2000, ge=1, description="Maximum number of open connections.")
    max_connections_per_address: int = Field(
        0, ge=0, description="Maximum number of open connections from one address; 0 means no separate limit."
    )
    stop_seconds: float = Field(
        10.0, gt=0, description="How long a stopping server waits for running requests, in seconds."
    )
    quote_64bit_integers: bool = Field(
        False,
        description="Write 64-bit and larger integers as strings in JSON, unless an endpoint or a request "
        "overrides it.",
    )
    strict_parameters: bool = Field(
        False,
        description="Refuse endpoint calls with unknown parameters; by default, a response header lists them.",
    )
    cors_origins: tuple[str, ...] = Field(
        ("*",), description="Origins from which browsers may send requests, separated by commas."
    )
    log_level: str = Field("info", description="Log level: debug, info, warning or error.")
    log_json: bool = Field(False, description="Write log lines as JSON.")

    access_log: bool = Field(True, description="Write a log line for each request.")
    trusted_proxies: tuple[str, ...] = Field(
        (),
        description="Addresses or networks of proxies whose `X-Forwarded-For` header is used for the access log, "
        "separated by commas.",
    )
    log_file_bytes: int = Field(
        64 * MIB,
        ge=0,
        description="Maximum size of the log files of `rookery serve`, in bytes: at least 1 MiB, or 0 for no files.",
    )

    @field_validator("workspace")
    @classmethod
    def _workspace(cls, value: str) -> str:
        if not _WORKSPACE.fullmatch(value) or value in {"system", "default"}:
            raise ValueError("must be 1 to 30 characters from a-z and 0-9, starting with a letter")
        return value

    @field_validator("timezone")
    @classmethod
    def _timezone(cls, value: str | None) -> str | None:
        return None if value is None else canonical_zone(value)

    @field_validator("log_file_bytes")
    @classmethod
    def _log_file_bytes(cls, value: int) -> int:
        if 0 < value < MIB:
            raise ValueError(f"must be 0 or at least {MIB}")
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for proxy in value:
            try:
                ip_network(proxy)
            except ValueError as exc:
                raise ValueError(f"`{proxy[:64]}` is not an address or a network, such as 10.0.0.0/8") from exc
        return value

    @field_validator("docs_url")
    @classmethod
    def _docs_url(cls, value: str | None) -> str | None:
        if value is not None and not _WEB_URL.fullmatch(value):
            raise ValueError("must be a URL that begins with http:// or https://")
        return value

    @field_validator("cors_origins", "trusted_proxies", mode="before")
    @classmethod
    def _origins(cls, value: Any) -> Any:
        return tuple(x.strip() for x in value.split(",") if x.strip()) if isinstance(value, str) else value

    @field_validator("log_level")
    @classmethod
    def _level(cls, value: str) -> str:
        if value.lower() not in {"debug", "info", "warning", "error"}:
            raise ValueError("must be debug, info, warning or error")
        return value.lower()

    def error_page(self, code: Code) -> str:
        """The absolute URL of the page that explains an error code."""
        # The header Host is never used: the sender of a request could choose where other people's links lead.
        if self.docs_url:
            return f"{self.docs_url.rstrip('/')}/errors/{code.id}"
        if self.public_url:
            return f"{self.public_url.rstrip('/')}/docs/errors/{code.id}"
        return published_page(code)

    @property
    def total_memory(self) -> int:
        """Maximum memory of all queries together, in bytes."""
        return self.max_total_memory or machine_memory() // 2

    @property
    def total_insert_memory(self) -> int:
        """Maximum memory to parse all batches that are being stored, in bytes."""
        return self.max_total_insert_memory or machine_memory() // 4

    @property
    def insert_memory(self) -> int:
        """Maximum memory to parse one batch of rows, in bytes."""
        return min(self.max_insert_memory or min(1024 * MIB, self.total_insert_memory // 4), self.total_insert_memory)

    def commit_memory(self, columns: int = 0) -> int:
        """Maximum memory to store one batch of rows that were read, with the buffers of columns, in bytes."""
        return self._with_buffers(max(COMMIT_MEMORY_FACTOR * self.insert_memory, MIN_COMMIT_MEMORY_BYTES), columns)

    def delivery_memory(self, columns: int = 0) -> int:
        """Maximum memory to deliver stored rows to a tenant, in bytes. One delivery may have several batches."""
        return max(self.commit_memory(columns), self._with_buffers(self.total_insert_memory, columns))

    def _with_buffers(self, memory: int, columns: int) -> int:
        buffers = columns * COLUMN_BUFFER_BYTES
        # A statement must reach its own limit first: the total of the embedded engine stops any statement.
        most = max(0, machine_memory() // 2 - memory) if self.clickhouse_url is None else buffers
        return memory + min(buffers, most)

    @property
    def backfill_memory(self) -> int:
        """Maximum memory of a statement that delivers history, in bytes; 0 for the limit of the ClickHouse user."""
        default = max(self.delivery_memory(), 1024 * MIB) if self.clickhouse_url is None else 0
        return max(self.max_backfill_memory, self.insert_memory) if self.max_backfill_memory else default

    @property
    def reader_share(self) -> int:
        """Readers that one caller may use at once. By default a quarter, and at least one, is reserved for others."""
        default = max(1, self.readers - max(1, self.readers // 4))
        return min(self.readers_per_caller or default, self.readers)

    @property
    def empty_database(self) -> str:
        """The default database of readers. It stays empty, so names that a query does not define do not exist."""
        return f"{self.workspace}_empty"

    @property
    def state_directory(self) -> Path:
        """The directory with the private files of this installation, such as tokens."""
        return self.data.parent

    @property
    def log_file(self) -> Path:
        """The file with the newest log lines of `rookery serve`."""
        return self.state_directory / "server.log"

    @property
    def admin_file(self) -> Path:
        """The private file that holds the admin token."""
        return self.state_directory / "admin_token"


def load(**flags: Any) -> Settings:
    """Load the settings from the environment. Flags that are not None override it. Raises RK7001."""
    try:
        return Settings(**_environment() | {name: value for name, value in flags.items() if value is not None})
    except ValidationError as exc:
        first = exc.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else "settings"
        raise RookeryError(
            SETTING, f"setting `{name}`: {_reason(first)}", hint=f"environment variable {PREFIX}{name.upper()}"
        ) from exc


def _environment() -> dict[str, Any]:
    """Settings in environment variables. Empty variables count as not set; the case of their names is ignored."""
    fields = {PREFIX + name.upper(): name for name in Settings.model_fields}
    given = {variable.upper(): value for variable, value in os.environ.items() if value}
    return {name: given[variable] for variable, name in fields.items() if variable in given}


_KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false"}


def _reason(error: ErrorDetails) -> str:
    """Why a value is invalid. The value is quoted, unless it is a secret or our own check refused it."""
    kind, _, fault = error["type"].partition("_")
    reason = str(error["msg"]).removeprefix("Value error, ")
    if fault in {"parsing", "type", "from_float", "parsing_size"} and kind in _KINDS:
        return f"must be {_KINDS[kind]}, not {str(error['input'])[:80]!r}"
    if isinstance(error["input"], str | int | float) and reason.startswith("Input should be "):
        return f"must be {reason.removeprefix('Input should be ')}, not {str(error['input'])[:80]!r}"
    return reason


def environment_without_settings(keep: Collection[str] = ()) -> dict[str, str]:
    """The environment for a child process: without the settings of this one, except those in `keep`."""
    kept = {PREFIX + name.upper() for name in keep}
    return {k: v for k, v in os.environ.items() if not k.startswith(PREFIX) or k in kept}


def is_set(name: str) -> bool:
    """Whether an environment variable has a value. An empty variable counts as not set."""
    return bool(os.environ.get(name))


def misspelled_variables() -> list[tuple[str, str]]:
    """Variables that begin with the prefix of settings but are not settings, each with the setting whose name is most
    similar.

    Variables without a similar setting are ignored: orchestrators set variables named after services.
    """
    known = [name.upper() for name in Settings.model_fields]
    pairs = []
    for name in sorted(n.removeprefix(PREFIX) for n in os.environ if n.startswith(PREFIX)):
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
            pairs += [(PREFIX + name, PREFIX + n) for n in near]
    return pairs
