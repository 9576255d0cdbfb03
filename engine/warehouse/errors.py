"""Errors of the database, translated at the border.

The caller sees our code and the engine's sentence without its version, stack, query text ("In scope …") and guesses
at other names ("Maybe you meant …"); the engine's full text is kept in `detail`, for the operator's log.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from clickhouse_connect.driver.exceptions import ClickHouseError, OperationalError, StreamFailureError
from urllib3.exceptions import HTTPError

from engine import errors
from engine.errors import Code, Place, RookeryError


class EngineError(RookeryError):
    """A failure at the database; `engine_code` is the engine's own number, where it gave one."""

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
    ) -> None:
        super().__init__(code, message, hint=hint, place=place, detail=detail, headers=headers)
        self.engine_code = engine_code


CODES: Mapping[int, Code] = {
    # Limits of time, memory, rows and bytes.
    159: errors.TIMEOUT,
    160: errors.TIMEOUT,
    128: errors.RESULT_LIMIT,
    131: errors.RESULT_LIMIT,
    158: errors.RESULT_LIMIT,
    191: errors.RESULT_LIMIT,
    241: errors.RESULT_LIMIT,
    290: errors.RESULT_LIMIT,
    307: errors.RESULT_LIMIT,
    396: errors.RESULT_LIMIT,
    # A value that does not fit its placeholder, or is missing.
    456: errors.BAD_PARAMETER,
    457: errors.BAD_PARAMETER,
    # Text that is no SQL, or too much of it for the parser.
    62: errors.SQL_SYNTAX,
    167: errors.SQL_SYNTAX,
    168: errors.SQL_SYNTAX,
    229: errors.SQL_SYNTAX,
    306: errors.SQL_SYNTAX,
    718: errors.SQL_SYNTAX,
    # Credentials.
    192: errors.AUTHENTICATION,
    193: errors.AUTHENTICATION,
    194: errors.AUTHENTICATION,
    195: errors.AUTHENTICATION,
    516: errors.AUTHENTICATION,
    # Load.
    202: errors.BUSY,
    203: errors.BUSY,
    252: errors.BUSY,
    700: errors.BUSY,
    745: errors.BUSY,
    749: errors.BUSY,
    762: errors.BUSY,
    1019: errors.BUSY,
    # Connections of the server to others, and to itself.
    209: errors.UNREACHABLE,
    210: errors.UNREACHABLE,
    279: errors.UNREACHABLE,
    # Faults of the engine or its machine, which no other statement would avoid.
    49: errors.ENGINE_INTERNAL,
    74: errors.ENGINE_INTERNAL,
    75: errors.ENGINE_INTERNAL,
    76: errors.ENGINE_INTERNAL,
    173: errors.ENGINE_INTERNAL,
    228: errors.ENGINE_INTERNAL,
    243: errors.ENGINE_INTERNAL,
    246: errors.ENGINE_INTERNAL,
    1001: errors.ENGINE_INTERNAL,
    1002: errors.ENGINE_INTERNAL,
}
"""Engine codes with a meaning of ours; every other one is ENGINE."""

_PREFIX = re.compile(r"^(?:.*?Code: \d+\. )?(?:DB::Exception: )?(?:Code: \d+\. DB::Exception: )*", re.DOTALL)
_NUMBER = re.compile(r"Code: (\d+)\. ")
# Where the tail begins. What stands before it is stripped afterwards: a pattern that began with blanks would look at
# each of them once for every other.
_TAIL = re.compile(
    r"In scope |\(in query: |Maybe you meant|[Ww]hile executing |Stack trace|\(version \d|Expected one of|\(for url "
    r"|\([A-Z][A-Z0-9_]{3,}\)\s*+(?:\Z|\(version \d)"
)
_HTTP_STATUS = re.compile(r"^HTTP driver received HTTP status (\d+)")
_LINE = re.compile(r"\(line (\d+), col (\d+)\)")
_POSITION = re.compile(r"failed at position (\d+)")
_RESULT_BYTES = re.compile(r"Limit for result exceeded, max (bytes|rows): ")
_LONGEST = 300


def translate(exc: BaseException) -> EngineError:
    """The error of ours for any exception of the database client; errors of ours pass unchanged."""
    if isinstance(exc, EngineError):
        return exc
    if isinstance(exc, RookeryError):
        return EngineError(
            exc.code, exc.message, hint=exc.hint, place=exc.place, detail=exc.detail, headers=exc.headers
        )
    text = str(exc)
    number = engine_code(exc)
    if number is None:
        return _without_number(exc, text)
    code = CODES.get(number, errors.ENGINE)
    return EngineError(
        code,
        sentence(text) or code.title,
        engine_code=number,
        place=_place(text) if code is errors.SQL_SYNTAX else None,
        detail=text,
        headers={"Retry-After": "1"} if code is errors.BUSY else None,
    )


def engine_code(exc: BaseException) -> int | None:
    """The engine's number in an exception, if it has one."""
    number = getattr(exc, "code", None)
    if isinstance(number, int):
        return number
    found = _NUMBER.search(str(exc))
    return int(found[1]) if found else None


def sentence(text: str) -> str:
    """The engine's sentence alone: without codes, version, stack, query text and names it guesses."""
    rest = _PREFIX.sub("", text, count=1)
    tail = _TAIL.search(rest)
    bare = (rest[: tail.start()] if tail else rest).strip().rstrip(".:, \n")
    return bare if len(bare) <= _LONGEST else bare[:_LONGEST] + "…"


def result_limit_of(text: str) -> str | None:
    """Which limit on the result was passed: 'bytes', 'rows', or None for another error."""
    found = _RESULT_BYTES.search(text)
    return found[1] if found else None


def _without_number(exc: BaseException, text: str) -> EngineError:
    """An exception without the engine's number: of the connection, or of the client itself."""
    if isinstance(exc, StreamFailureError):
        return EngineError(errors.ENGINE_INTERNAL, "the result broke off before its end", detail=text)
    status = _HTTP_STATUS.search(text)
    if status and status[1] in {"401", "403"}:
        return EngineError(errors.AUTHENTICATION, errors.AUTHENTICATION.title, detail=text)
    if status:
        return EngineError(
            errors.UNREACHABLE,
            f"what answers there with status {status[1]} is not ClickHouse's HTTP interface",
            hint="the URL needs ClickHouse's HTTP port, 8123 or 8443",
            detail=text,
        )
    if isinstance(exc, (OperationalError, OSError, HTTPError)):
        return EngineError(errors.UNREACHABLE, "ClickHouse cannot be reached", detail=text)
    if isinstance(exc, ClickHouseError):
        return EngineError(errors.ENGINE, sentence(text) or errors.ENGINE.title, detail=text)
    return EngineError(errors.ENGINE_INTERNAL, "the database client failed", detail=f"{type(exc).__name__}: {text}")


def _place(text: str) -> Place | None:
    """Line and column of a syntax error, where the engine says."""
    line = _LINE.search(text)
    if line:
        return Place(line=int(line[1]), column=int(line[2]))
    position = _POSITION.search(text)
    return Place(line=1, column=int(position[1])) if position else None
