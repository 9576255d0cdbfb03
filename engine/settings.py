"""Settings from the environment, `.rookery/auth.json` and flags; the only reader of `os.environ`.

Every field is an environment variable `ROOKERY_<FIELD>` and is documented in `docs/settings.md`.
"""

from __future__ import annotations

import difflib
import os
import re
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from engine.errors import SETTING, RookeryError

MIB = 1 << 20
HOME = ".rookery"
"""Name of the directory with an installation's private files."""
_ZONE = re.compile(r"[A-Za-z][A-Za-z0-9_+/-]{0,63}")
_WORKSPACE = re.compile(r"[a-z][a-z0-9]{0,29}")

_UTC = frozenset(
    f"{area}{name}"
    for area in ("", "Etc/")
    for name in ("UTC", "UCT", "Universal", "Zulu", "GMT", "GMT0", "GMT+0", "GMT-0", "Greenwich")
)
# Files beside the zones: what the first two stand for depends on the host.
_HOST_ONLY = ("localtime", "posixrules", "Factory", "posix/", "right/")


def canonical_zone(name: str) -> str:
    """A time zone's IANA name; all names of UTC become `UTC`. Raises ValueError for what is no time zone."""
    if name in _UTC:
        return "UTC"
    try:
        if not _ZONE.fullmatch(name) or name.startswith(_HOST_ONLY):
            raise ValueError(name)
        ZoneInfo(name)
    except (ValueError, LookupError, OSError) as exc:
        raise ValueError(f"`{name[:64]}` is not the name of a time zone, such as UTC or Europe/Berlin") from exc
    return name


class Settings(BaseSettings):
    """All settings of the server and the command line, validated once at start."""

    model_config = SettingsConfigDict(env_prefix="ROOKERY_", env_ignore_empty=True, extra="ignore", frozen=True)

    workspace: str = Field("main", description="Name of the workspace; also the name of its database.")
    data: Path = Field(Path(".rookery/data"), description="Directory of the embedded engine.")
    timezone: str | None = Field(
        None, description="Time zone of a new workspace, such as `Europe/Berlin`; unset means UTC."
    )
    clickhouse_url: str | None = Field(None, description="URL of a ClickHouse server; unset means embedded.")
    clickhouse_user: str = Field("default", description="ClickHouse user that creates and writes.")
    clickhouse_password: SecretStr = Field(SecretStr(""), description="Its password.")
    clickhouse_reader_user: str | None = Field(
        None, description="ClickHouse user that only reads; default: the writer."
    )
    clickhouse_reader_password: SecretStr = Field(SecretStr(""), description="Its password.")
    host: str = Field("127.0.0.1", description="Address that `rookery serve` listens on.")
    port: int = Field(7181, ge=0, le=65535, description="Port that `rookery serve` listens on; 0 picks a free one.")
    public_url: str | None = Field(None, description="Base URL shown to callers, if behind a proxy.")
    admin_token: SecretStr | None = Field(None, description="The admin token; default: made on first use.")
    url: str | None = Field(None, description="URL of a running rookery server that the command line talks to.")
    token: SecretStr | None = Field(None, description="Token that the command line sends to that server.")
    readers: int = Field(8, ge=1, le=256, description="Database handles for queries.")
    writers: int = Field(8, ge=2, le=64, description="Database handles for inserts and DDL.")
    borrow_timeout: float = Field(5.0, gt=0, description="Seconds a request waits for a database handle.")
    max_seconds: float = Field(10.0, gt=0, description="Longest run of a query, in seconds.")
    max_memory: int = Field(2048 * MIB, gt=0, description="Most memory of a query, in bytes.")
    max_total_memory: int = Field(
        0, ge=0, description="Most memory of all queries together, in bytes; 0 means half of the machine's."
    )
    readers_per_caller: int = Field(
        0, ge=0, description="Most readers that one tenant's queries use at once; 0 means three quarters of them."
    )
    max_rows: int = Field(50_000_000, gt=0, description="Most rows a query may return.")
    stuck_seconds: float = Field(
        5.0, gt=0, description="How far over its limit of time a query may run before its reader counts as stuck."
    )
    max_nests: int = Field(
        200, ge=0, description="Most tenants with tables whose rows a query without a tenant reads together."
    )
    max_concurrent: int = Field(100, gt=0, description="Most queries at once per token, and per tenant.")
    token_leeway: float = Field(60.0, ge=0, description="How many seconds clocks may differ, for `iat` and `nbf`.")
    max_token_seconds: int = Field(366 * 86_400, gt=0, description="Longest life of a JWT from now on, in seconds.")
    max_body: int = Field(64 * MIB, gt=0, description="Largest request body, in bytes.")
    max_parquet_memory: int = Field(
        2048 * MIB, ge=256 * MIB, description="Most memory for opening a Parquet file above 32 MiB, in bytes."
    )
    max_parquet_bytes: int = Field(
        64 << 30, gt=0, description="Most bytes that the rows of a Parquet file above 32 MiB may be, once opened."
    )
    max_waiting: int = Field(512 * MIB, gt=0, description="Most bytes of rows that wait to be stored.")
    max_insert_memory: int = Field(
        0,
        ge=0,
        description="Most memory for reading a batch of rows, in bytes; 0: a quarter of all, at most 1 GiB.",
    )
    max_total_insert_memory: int = Field(
        0,
        ge=0,
        description="Most memory for reading all batches, in bytes; 0 means a quarter of the machine's.",
    )
    min_free: int | None = Field(
        None, ge=0, description="Bytes of disk that stay free; fewer refuse rows. Default: 5 %, at most 256 MiB."
    )
    wait_seconds: float = Field(
        30.0, ge=0, description="Longest wait of a command for the process that holds the directory, in seconds."
    )
    search_rows: int = Field(
        1000,
        ge=0,
        description="Most bad rows of a request whose reasons are searched for; others have a general one.",
    )
    search_tries: int = Field(
        200, ge=0, description="Most failed inserts of a search; then what is left goes to quarantine unsearched."
    )
    quarantine_rows: int = Field(
        100_000, ge=0, description="Most rows that one writer may have in a datasource's quarantine."
    )
    quarantine_bytes: int = Field(
        256 * MIB, ge=0, description="Most bytes that one writer may have in a datasource's quarantine."
    )
    visible_seconds: float = Field(30.0, gt=0, description="Longest wait of `wait=visible`, in seconds.")
    max_request_line: int = Field(61_440, ge=1024, description="Longest URL of a request, in bytes.")
    max_headers: int = Field(100, ge=10, description="Most headers of a request.")
    max_header_bytes: int = Field(65_536, ge=1024, description="Most bytes of a request's headers.")
    header_seconds: float = Field(15.0, gt=0, description="Longest a request's headers may take to arrive.")
    body_seconds: float = Field(30.0, gt=0, description="Longest pause in a request's body.")
    idle_seconds: float = Field(30.0, gt=0, description="How long a connection stays open between requests.")
    send_seconds: float = Field(60.0, gt=0, description="How long a client may leave an answer unread.")
    max_connections: int = Field(2000, ge=1, description="Most open connections.")
    max_connections_per_address: int = Field(
        0, ge=0, description="Most open connections from one address; 0 means no limit of its own."
    )
    stop_seconds: float = Field(10.0, gt=0, description="How long running requests may take to finish at the end.")
    quote_64bit_integers: bool = Field(
        False,
        description="JSON has integers of 64 bits and more as text, unless an endpoint or a request says otherwise.",
    )
    strict_parameters: bool = Field(
        False, description="Refuse endpoint calls with unknown parameters instead of naming them in a header."
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        ("*",), description="Origins that browsers may call from, comma separated."
    )
    log_level: str = Field("info", description="debug, info, warning or error.")
    log_json: bool = Field(False, description="Write log lines as JSON.")

    @field_validator("workspace")
    @classmethod
    def _workspace(cls, value: str) -> str:
        if not _WORKSPACE.fullmatch(value) or value in {"system", "default"}:
            raise ValueError("must be 1 to 30 characters a-z and 0-9, starting with a letter")
        return value

    @field_validator("timezone")
    @classmethod
    def _timezone(cls, value: str | None) -> str | None:
        return None if value is None else canonical_zone(value)

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _origins(cls, value: Any) -> Any:
        return tuple(x.strip() for x in value.split(",") if x.strip()) if isinstance(value, str) else value

    @field_validator("log_level")
    @classmethod
    def _level(cls, value: str) -> str:
        if value.lower() not in {"debug", "info", "warning", "error"}:
            raise ValueError("must be debug, info, warning or error")
        return value.lower()

    @property
    def total_memory(self) -> int:
        """Most memory of all queries together, in bytes."""
        return self.max_total_memory or _machine_memory() // 2

    @property
    def total_insert_memory(self) -> int:
        """Most memory for reading all batches of rows that are stored at once, in bytes."""
        return self.max_total_insert_memory or _machine_memory() // 4

    @property
    def insert_memory(self) -> int:
        """Most memory for reading one batch of rows, in bytes."""
        return min(self.max_insert_memory or min(1024 * MIB, self.total_insert_memory // 4), self.total_insert_memory)

    @property
    def reader_share(self) -> int:
        """Readers that one caller may use at once: all but a quarter, of which at least one is left to others."""
        fair = max(1, self.readers - max(1, self.readers // 4))
        return min(self.readers_per_caller or fair, self.readers)

    @property
    def empty_database(self) -> str:
        """The readers' default database, which stays empty."""
        return f"{self.workspace}_empty"

    @property
    def state_directory(self) -> Path:
        """Where private files of this installation live (tokens, addresses)."""
        return self.data.parent

    @property
    def admin_file(self) -> Path:
        """The private file that holds the admin token."""
        return self.state_directory / "admin_token"


@cache
def _machine_memory() -> int:
    """Bytes of memory of this machine, or of the container that this process is in."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):
        return min(physical, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return physical


def load(**flags: Any) -> Settings:
    """Settings from the environment, overridden by flags that are not None. Raises RK7001."""
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as exc:
        first = exc.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else "settings"
        raise RookeryError(
            SETTING, f"setting `{name}`: {_reason(first)}", hint=f"environment variable ROOKERY_{name.upper()}"
        ) from exc


_KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false"}


def _reason(error: ErrorDetails) -> str:
    """Why a value is not valid, with the value; those of custom checks and of secrets are as the check says."""
    kind, _, wrong = error["type"].partition("_")
    reason = str(error["msg"]).removeprefix("Value error, ")
    if wrong in {"parsing", "type", "from_float", "parsing_size"} and kind in _KINDS:
        return f"must be {_KINDS[kind]}, not {str(error['input'])[:80]!r}"
    if isinstance(error["input"], str | int | float) and reason.startswith("Input should be "):
        return f"must be {reason.removeprefix('Input should be ')}, not {str(error['input'])[:80]!r}"
    return reason


def is_set(name: str) -> bool:
    """Whether an environment variable has a value; an empty one is one that is not set."""
    return bool(os.environ.get(name))


def misspelled_variables() -> list[tuple[str, str]]:
    """Variables in the environment that are no setting and look like one, each with that one.

    Others are left alone: orchestrators set variables of their own by the names of services.
    """
    prefix = str(Settings.model_config["env_prefix"])
    known = [name.upper() for name in Settings.model_fields]
    found = []
    for name in sorted(n.removeprefix(prefix) for n in os.environ if n.startswith(prefix)):
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
            found += [(prefix + name, prefix + n) for n in near]
    return found


def is_interactive_disabled() -> bool:
    """Whether prompts are unwanted, as in CI."""
    return os.environ.get("CI", "").lower() in {"1", "true"}


def private_directory(path: Path) -> None:
    """Make a directory that only its owner can enter. An existing one is closed to others if it is ours by its name.

    Raises OSError where that is not possible.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.name == HOME and path.stat().st_mode & 0o077:
        path.chmod(0o700)


def private_file(path: Path, text: str) -> None:
    """Write a file that only its owner can read, atomically; its directory is made private too."""
    private_directory(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    temporary.replace(path)
