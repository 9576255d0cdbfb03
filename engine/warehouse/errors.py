"""Translates the database's errors into `EngineError`.

Callers see our code and the engine's message without its version, stack, query text ("In scope …") and suggestions of
other names ("Maybe you meant …"). The engine's full text is in `detail`, for the operator's log.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping
from typing import TypeGuard

from clickhouse_connect.driver.exceptions import ClickHouseError, OperationalError, StreamFailureError
from urllib3.exceptions import HTTPError

from engine import errors
from engine.errors import Code, Place, RookeryError
from engine.warehouse.error_numbers import CODES, MEMORY_LIMIT, OVERLOAD, TOO_MANY_PARTS
from engine.warehouse.public_texts import public_text

NOT_IMPLEMENTED = 48
"""The engine's error number for a statement that a table engine does not support."""


class EngineError(RookeryError):
    """An error of the database. `engine_code` is the engine's own error number, or None."""

    def __init__(
        self,
        code: Code,
        message: str,
        *,
        engine_code: int | None = None,
        hint: str | None = None,
        place: Place | None = None,
        detail: str | None = None,
        headers: Mapping[str, str] | None = None,
        public: str | None = None,
    ) -> None:
        quotes_rows = engine_code is not None and code in (errors.ENGINE, errors.ENGINE_INTERNAL)
        if public is None and quotes_rows:
            public = public_text(engine_code, code.title)
        super().__init__(code, message, hint=hint, place=place, detail=detail, headers=headers, public=public)
        self.engine_code = engine_code


_RETRY_AFTER: Mapping[Code, str] = {errors.BUSY: "1", errors.STORAGE: "2", errors.DISK_FULL: "10"}
"""Values of Retry-After, in seconds, for errors after which the same statement may succeed."""
_DISK_ERRORS = (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE)
_FILE_SYSTEM = "filesystem error"
"""Start of C++ exceptions about files. The engine has the same number for all exceptions of the standard library."""
_UNKNOWN_TABLE = 60
"""The engine's number for a table that does not exist."""
_STAGE = re.compile(r"_stage\.(?:_rk_flush_|\w+_[0-9a-f]{12}_[0-9a-f]{8}\b)")
"""The names of stages, and of tables that combine several of them. They are in memory only."""
_TOO_BIG = "Query tree is too big"
"""Message about a statement that is too large when expanded. Its number is shared by all invalid arguments."""
_FULL = re.compile(r"No space left on device|Disk quota exceeded")

_ILLEGAL_AGGREGATION = 184
"""The engine's number for an aggregate function in WHERE, or inside another one."""
TOO_LITTLE = 33
"""The engine's number for input that ends too early, such as a truncated file of a part."""
_CUT_OFF = frozenset({32, TOO_LITTLE})
"""The engine's numbers for input that ends too early: data from a caller, or a file of a part."""
_OF_A_PART = re.compile(
    r"while reading from part |while loading statistics for column |While reading or decompressing \S*/store/"
)

_OWN_MEMORY_LIMIT = ("Query memory limit exceeded", "Memory limit (for query) exceeded")
"""Messages about the statement's own limit. Older servers use the second one."""
_IMPOSSIBLE_SIZE = "Amount of memory requested to allocate is more than allowed"
"""The message about a size that no value has, such as a negative one in a broken Parquet file."""

_PREFIX = re.compile(r"^(?:.*?Code: \d+\. )?(?:DB::Exception: )?(?:Code: \d+\. DB::Exception: )*", re.DOTALL)
_NUMBER = re.compile(r"Code: (\d+)[.,] ")
# Matches the beginning of the part of a message that callers do not see. White space before it is stripped
# separately, because a pattern that begins with white space would take quadratic time.
_TAIL = re.compile(
    r"In scope |In query (?=WITH |SELECT )|\(in query: "
    r"|Maybe you meant|[Ww]hile executing |Stack trace|\(version \d|Expected one of|\(for url "
    r"|\([A-Z][A-Z0-9_]{3,}\)\s*+(?:\Z|\(version \d|, Stack trace)"
)
_HTTP_STATUS = re.compile(r"^HTTP driver received HTTP status (\d+)")
_LINE = re.compile(r"\(line (\d+), col (\d+)\)")
_POSITION = re.compile(r"failed at position (\d+)")
_SUGGESTION = re.compile(r"Maybe you meant: (?:\[')?([A-Za-z_]\w{0,99})")
_PARTITIONS = "Too many partitions for single INSERT block"
_RESULT_BYTES = re.compile(r"Limit for result exceeded, max (bytes|rows): ")
_MAX_MESSAGE_CHARACTERS = 300


def translate(exc: BaseException) -> EngineError:
    """Convert an exception of the database client to an EngineError. An EngineError is returned unchanged."""
    if isinstance(exc, EngineError):
        return exc
    if isinstance(exc, RookeryError):
        return EngineError(
            exc.code,
            exc.message,
            hint=exc.hint,
            place=exc.place,
            detail=exc.detail,
            headers=exc.headers,
            public=exc.public,
        )
    if is_file_error(exc):
        # The client writes rows to temporary files.
        return file_error(exc)
    text = str(exc)
    number = engine_code(exc)
    if number is None:
        return _without_number(exc, text)
    code = _code_of(number, text)
    # Messages about files contain paths of the host, which only the operator's log may contain.
    message = code.title if code in _ABOUT_FILES else sentence(text) or code.title
    if number == _UNKNOWN_TABLE and code is errors.UNREACHABLE:
        message = "the ClickHouse server was restarted"
    return EngineError(
        code,
        message,
        engine_code=number,
        hint=_hint(code, number, message, text),
        place=_place(text) if code is errors.SQL_SYNTAX else None,
        detail=text,
        headers={"Retry-After": _RETRY_AFTER[code]} if code in _RETRY_AFTER else None,
    )


def _hint(code: Code, number: int, message: str, text: str) -> str | None:
    if number == _ILLEGAL_AGGREGATION and " AS " in message:
        return "an alias hides the column of the same name: qualify the column, or choose another alias"
    # The parser suggests keywords only. Other suggestions are names, which not every caller may see.
    return suggestion(text) if code is errors.SQL_SYNTAX else _ABOUT_FILES.get(code)


_ABOUT_FILES: Mapping[Code, str] = {
    errors.DISK_FULL: "free space on the disks of the data directory and of TMPDIR, then repeat the request",
    errors.STORAGE: "repeat the request; if it keeps failing, check the server's log and the system's log",
    errors.DAMAGED: "run rookery doctor to see which table and part are damaged",
}
"""Hints for the codes whose message is our own title instead of the engine's message."""


def _code_of(number: int, text: str) -> Code:
    """Our code for an engine's error. Some numbers have several causes, which only the text distinguishes."""
    code = CODES.get(number, errors.ENGINE)
    if number == 36 and _TOO_BIG in text:
        code = errors.TOO_COMPLEX
    if number == TOO_MANY_PARTS and _PARTITIONS in text:
        # The rows are the reason, and not load.
        code = errors.ENGINE
    if number == _UNKNOWN_TABLE and _STAGE.search(text):
        # The rows are not the reason, so the sender must repeat them.
        code = errors.UNREACHABLE
    if number == 1001 and _FILE_SYSTEM in text:
        code = errors.STORAGE
    if number in _CUT_OFF and _OF_A_PART.search(text):
        code = errors.DAMAGED
    if code is errors.STORAGE and _FULL.search(text):
        code = errors.DISK_FULL
    return code


def storage_error(exc: EngineError) -> EngineError:
    """Convert the engine's "input ended too early" to STORAGE, for statements that do not read input of a caller."""
    if exc.engine_code != TOO_LITTLE or exc.code is errors.DAMAGED:
        return exc
    code = errors.STORAGE
    return EngineError(
        code,
        code.title,
        engine_code=exc.engine_code,
        hint=_ABOUT_FILES[code],
        detail=exc.detail,
        headers={"Retry-After": _RETRY_AFTER[code]},
    )


def is_file_error(exc: BaseException) -> TypeGuard[OSError]:
    """Whether an exception says that the disk or the file system failed, and not that a file does not exist."""
    return isinstance(exc, OSError) and exc.errno in _DISK_ERRORS


def file_error(exc: OSError) -> EngineError:
    """Convert an error on a file in the data directory, or on a temporary one, to DISK_FULL or STORAGE."""
    code = errors.DISK_FULL if exc.errno in (errno.ENOSPC, errno.EDQUOT) else errors.STORAGE
    return EngineError(
        code, code.title, hint=_ABOUT_FILES[code], detail=str(exc), headers={"Retry-After": _RETRY_AFTER[code]}
    )


def is_transient(exc: RookeryError) -> bool:
    """Whether an INSERT failed for a reason unrelated to its rows, so that a retry may succeed."""
    # The engine has the same number for a lack of memory.
    if _IMPOSSIBLE_SIZE in (exc.detail or ""):
        return False
    if exc.code in _TRANSIENT:
        return True
    number = getattr(exc, "engine_code", None)
    return number in OVERLOAD and not exceeds_own_memory(exc) and not has_too_many_partitions(exc)


def has_too_many_partitions(exc: RookeryError) -> bool:
    """Whether the rows of an INSERT belong to too many partitions of a table."""
    return getattr(exc, "engine_code", None) == TOO_MANY_PARTS and _PARTITIONS in (exc.detail or "")


def is_missing_table(exc: BaseException | None) -> bool:
    """Whether a statement failed because a table does not exist."""
    return getattr(exc, "engine_code", None) == _UNKNOWN_TABLE


def is_lost_stage(exc: BaseException | None) -> bool:
    """Whether a stage no longer exists: a ClickHouse server was restarted, and had it in memory."""
    return is_missing_table(exc) and getattr(exc, "code", None) in _TRANSIENT


def is_caused_by_rows(exc: RookeryError) -> bool:
    """Whether a statement failed because of the rows that it reads, so that it fails on them every time."""
    return not (exc.is_server_fault or is_transient(exc))


def exceeds_own_memory(exc: RookeryError) -> bool:
    """Whether a statement exceeded its own memory limit, and not that of all statements."""
    return getattr(exc, "engine_code", None) == MEMORY_LIMIT and any(
        text in (exc.detail or "") for text in _OWN_MEMORY_LIMIT
    )


_TRANSIENT = frozenset(
    {
        errors.DISK_FULL,
        errors.STORAGE,
        errors.OVERLOADED,
        errors.UNREACHABLE,
        errors.BUSY,
        errors.ENGINE_INTERNAL,
        errors.CLOSED,
        errors.TIMEOUT,
        errors.AUTHENTICATION,
    }
)


def for_sender(exc: RookeryError) -> RookeryError:
    """Convert a transient error for the sender of rows: 507 for a full disk, otherwise 503, with Retry-After.

    An internal error of the engine remains 500, because the same rows may cause it every time.
    """
    if exc.code is errors.ENGINE_INTERNAL:
        return exc
    # The engine's messages about overload name tables, including those of other tenants.
    ours = exc.code in _ABOUT_FILES or getattr(exc, "engine_code", None) is None
    if ours and exc.code.status in (503, 507):
        headers = {"Retry-After": exc.headers.get("Retry-After", "2")}
        return EngineError(
            exc.code, exc.message, hint=exc.hint, detail=exc.detail, headers=headers, public=exc.public
        )
    return EngineError(
        errors.OVERLOADED,
        errors.OVERLOADED.title,
        engine_code=getattr(exc, "engine_code", None),
        hint="send the rows again after the time in Retry-After, with the same idempotency key",
        detail=exc.detail or exc.message,
        headers={"Retry-After": "2"},
    )


def engine_code(exc: BaseException) -> int | None:
    """The engine's error number in an exception, or None."""
    number = getattr(exc, "code", None)
    if isinstance(number, int):
        return number
    match = _NUMBER.search(str(exc))
    return int(match[1]) if match else None


def sentence(text: str) -> str:
    """The part of the engine's message for callers: without codes, version, stack, query text and suggestions."""
    message = _PREFIX.sub("", text, count=1)
    tail = _TAIL.search(message)
    bare = (message[: tail.start()] if tail else message).strip().rstrip(".:, \n")
    return bare if len(bare) <= _MAX_MESSAGE_CHARACTERS else bare[:_MAX_MESSAGE_CHARACTERS] + "…"


def suggestion(text: str) -> str | None:
    """The hint with the first name that the engine suggests, or None. Names of our own are not shown."""
    match = _SUGGESTION.search(text)
    return f"did you mean `{match[1]}`?" if match and not match[1].startswith(("_rk_", "rk_")) else None


def result_limit_of(text: str) -> str | None:
    """Which limit on the result was exceeded: 'bytes' or 'rows'; None for another error."""
    match = _RESULT_BYTES.search(text)
    return match[1] if match else None


def _without_number(exc: BaseException, text: str) -> EngineError:
    """Convert an exception without an engine's number: an error of the connection, or of the client itself."""
    if isinstance(exc, StreamFailureError):
        return EngineError(errors.ENGINE_INTERNAL, "the result is incomplete: the connection was closed", detail=text)
    status = _HTTP_STATUS.search(text)
    if status and status[1] in {"401", "403"}:
        return EngineError(errors.AUTHENTICATION, errors.AUTHENTICATION.title, detail=text)
    if status:
        return EngineError(
            errors.UNREACHABLE,
            f"the server at this URL is not ClickHouse's HTTP interface: it responded with status {status[1]}",
            hint="use ClickHouse's HTTP port, by default 8123 or 8443",
            detail=text,
        )
    if isinstance(exc, (OperationalError, OSError, HTTPError)):
        return EngineError(errors.UNREACHABLE, "ClickHouse cannot be reached", detail=text)
    if isinstance(exc, ClickHouseError):
        return EngineError(errors.ENGINE, sentence(text) or errors.ENGINE.title, detail=text)
    return EngineError(errors.ENGINE_INTERNAL, "the database client failed", detail=f"{type(exc).__name__}: {text}")


def _place(text: str) -> Place | None:
    """The place of a syntax error, if the engine's message contains it."""
    line = _LINE.search(text)
    if line:
        return Place(line=int(line[1]), column=int(line[2]))
    position = _POSITION.search(text)
    return Place(line=1, column=int(position[1])) if position else None
