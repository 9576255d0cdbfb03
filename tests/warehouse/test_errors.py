"""Every failure of the database becomes a rookery error."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from clickhouse_connect.driver import exceptions
from urllib3.exceptions import HTTPError

from engine import errors
from engine.errors import BAD_NAME, Code, Place, RookeryError
from engine.query import errors as query_errors
from engine.warehouse import error_numbers
from engine.warehouse.embedded import EmbeddedWarehouse
from engine.warehouse.error_numbers import CODES
from engine.warehouse.errors import EngineError, for_sender, translate

NAMES = {
    errors.TIMEOUT: "TIMEOUT_EXCEEDED TOO_SLOW",
    errors.RESULT_LIMIT: "TOO_MANY_ROWS TOO_MANY_BYTES TOO_MANY_ROWS_OR_BYTES MEMORY_LIMIT_EXCEEDED "
    "SET_SIZE_LIMIT_EXCEEDED LIMIT_EXCEEDED TOO_LARGE_ARRAY_SIZE TOO_LARGE_STRING_SIZE",
    errors.BAD_PARAMETER: "UNKNOWN_QUERY_PARAMETER BAD_QUERY_PARAMETER",
    errors.SQL_SYNTAX: "SYNTAX_ERROR TOO_DEEP_AST TOO_BIG_AST TOO_DEEP_RECURSION TOO_SLOW_PARSING QUERY_IS_TOO_LARGE",
    errors.AUTHENTICATION: "UNKNOWN_USER WRONG_PASSWORD REQUIRED_PASSWORD IP_ADDRESS_NOT_ALLOWED "
    "AUTHENTICATION_FAILED",
    errors.BUSY: "TOO_MANY_SIMULTANEOUS_QUERIES NO_FREE_CONNECTION TOO_MANY_PARTS USER_SESSION_LIMIT_EXCEEDED "
    "SERVER_OVERLOADED TCP_CONNECTION_LIMIT_REACHED HTTP_CONNECTION_LIMIT_REACHED QUERY_SLOT_ACQUISITION_TIMEOUT",
    errors.UNREACHABLE: "SOCKET_TIMEOUT NETWORK_ERROR ALL_CONNECTION_TRIES_FAILED",
    errors.CANCELLED: "QUERY_WAS_CANCELLED",
    errors.TOO_COMPLEX: "TOO_DEEP_SUBQUERIES TOO_MANY_QUERY_PLAN_OPTIMIZATIONS",
    errors.DISK_FULL: "NOT_ENOUGH_SPACE",
    errors.STORAGE: "CANNOT_WRITE_TO_OSTREAM CANNOT_READ_FROM_FILE_DESCRIPTOR CANNOT_WRITE_TO_FILE_DESCRIPTOR "
    "CANNOT_OPEN_FILE CANNOT_CLOSE_FILE CANNOT_SEEK_THROUGH_FILE CANNOT_TRUNCATE_FILE CANNOT_CREATE_DIRECTORY "
    "CANNOT_FSYNC CANNOT_STATVFS CANNOT_WRITE_TO_FILE CANNOT_STAT CANNOT_LINK SYSTEM_ERROR CANNOT_UNLINK CANNOT_FSTAT "
    "CANNOT_RMDIR CANNOT_CREATE_FILE CANNOT_APPEND_TO_FILE CANNOT_WRITE_AFTER_BUFFER_CANCELED",
    errors.DAMAGED: "CHECKSUM_DOESNT_MATCH NO_FILE_IN_DATA_PART UNEXPECTED_FILE_IN_DATA_PART "
    "BAD_SIZE_OF_FILE_IN_DATA_PART CORRUPTED_DATA POTENTIALLY_BROKEN_DATA_PART",
    errors.ENGINE_INTERNAL: "LOGICAL_ERROR CANNOT_ALLOCATE_MEMORY STD_EXCEPTION UNKNOWN_EXCEPTION",
}
RETRIED = (errors.BUSY, errors.STORAGE, errors.DISK_FULL)
OURS = (errors.STORAGE, errors.DISK_FULL, errors.DAMAGED)
"""Rookery writes their messages, because the engine's contain paths of the host."""


def test_error_numbers_match_the_names_of_the_engine(embedded: EmbeddedWarehouse) -> None:
    result = embedded.query("SELECT number, errorCodeToName(number) FROM numbers(1100)")
    numbers = {name: number for number, name in result.rows if name}
    meant = {numbers[name]: code for code, names in NAMES.items() for name in names.split()}
    assert meant == CODES


def test_comments_name_the_numbers_as_the_engine_does(embedded: EmbeddedWarehouse) -> None:
    known = dict(embedded.query("SELECT number, errorCodeToName(number) FROM numbers(1100)").rows)
    for module in (error_numbers, query_errors):
        text = Path(module.__file__).read_text(encoding="utf-8")
        named = re.findall(r"^ +(\d+)(?:: errors\.\w+)?,  # (\w+)$", text, re.MULTILINE)
        assert len(named) > 15
        assert {int(n): name for n, name in named} == {int(n): known[int(n)] for n, _ in named}


def test_every_engine_error_has_a_rookery_error(embedded: EmbeddedWarehouse) -> None:
    known = set(errors.codes().values())
    rows = embedded.query("SELECT number, errorCodeToName(number) AS n FROM numbers(1100) WHERE n != ''").rows
    for number, name in rows:
        text = f"Code: {number}. DB::Exception: it failed: In scope SELECT 1. ({name}) (version 26.9.2.1)"
        for exc in (exceptions.DatabaseError(text, code=number), RuntimeError(text)):
            error = translate(exc)
            assert error.code in known
            message = error.code.title if error.code in OURS else "it failed"
            assert (error.engine_code, error.message, error.detail) == (number, message, text)
            assert bool(error.headers) == (error.code in RETRIED)


def _all_exceptions() -> list[type[Exception]]:
    return [c for c in vars(exceptions).values() if isinstance(c, type) and issubclass(c, Exception)]


def test_a_full_disk_of_temporary_files_is_a_full_disk() -> None:
    """The client of the embedded engine writes rows to one before it inserts them."""
    error = for_sender(translate(OSError(errno.ENOSPC, "No space left on device")))
    assert error.code is errors.DISK_FULL and "TMPDIR" in (error.hint or "")
    assert error.headers["Retry-After"]


@pytest.mark.parametrize("kind", [*_all_exceptions(), HTTPError, OSError, TimeoutError, RuntimeError, ValueError])
def test_every_client_exception_has_a_rookery_error(kind: type[Exception]) -> None:
    exc = kind() if kind is exceptions.StreamClosedError else kind("something with /a/path")
    error = translate(exc)
    assert isinstance(error, EngineError)
    assert error.engine_code is None
    assert error.code.id.startswith("RK6")
    assert "something" in (error.detail or "") or kind is exceptions.StreamClosedError


def test_connection_failures_are_distinguished() -> None:
    assert translate(exceptions.OperationalError("Error … executing HTTP request")).code is errors.UNREACHABLE
    assert translate(exceptions.StreamFailureError("broke")).code is errors.ENGINE_INTERNAL
    assert translate(exceptions.DatabaseError("HTTP driver received HTTP status 404")).code is errors.UNREACHABLE
    assert translate(exceptions.DatabaseError("HTTP driver received HTTP status 401")).code is errors.AUTHENTICATION


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Code: 60. DB::Exception: Unknown table 'k'. Maybe you meant other_nest.k? In scope SELECT 1. (X_Y_Z)",
         "Unknown table 'k'"),
        ("Code: 395. DB::Exception: custom: while executing 'FUNCTION throwIf(1_UInt8 :: 1)'. (FUNCTION_THROW)",
         "custom"),
        ("Code: 241. DB::Exception: Code: 241. DB::Exception: Too much: While executing A. (M) (version 1)",
         "Too much"),
        ("Received ClickHouse exception, code: 60, server response: Code: 60. DB::Exception: No table. "
         "(UNKNOWN_TABLE) (version 26.1.1.1 (official build)) (for url http://10.0.0.1:8123)", "No table"),
        ("Code: 47. DB::Exception: Bad (a + B). (UNKNOWN_IDENTIFIER)", "Bad (a + B)"),
        ("Code: 62. DB::Exception: Syntax error: failed at position 7 (1) (line 1, col 7): 1. Expected one of: a",
         "Syntax error: failed at position 7 (1) (line 1, col 7): 1"),
        ("Code: 1. DB::Exception: " + "x" * 5000, "x" * 300 + "…"),
        ("Code: 49. DB::Exception: , Stack trace (when copying this message): 0. a.cpp", "database failed"),
    ],
)  # fmt: skip
def test_only_the_message_of_the_engine_is_shown(text: str, message: str) -> None:
    error = translate(RuntimeError(text))
    assert error.message == message
    assert error.detail == text
    assert not re.search(r"In scope|version|10\.0\.0|nest", error.message)


def test_syntax_errors_have_positions() -> None:
    text = "Code: 62. DB::Exception: Syntax error: failed at position 24 (x) (line 3, col 12): . (SYNTAX_ERROR)"
    assert translate(RuntimeError(text)).place == Place(line=3, column=12)
    assert translate(RuntimeError(text.replace(" (line 3, col 12)", ""))).place == Place(line=1, column=24)


def test_rookery_errors_are_not_translated() -> None:
    known = EngineError(errors.BUSY, "busy")
    assert translate(known) is known
    other = translate(RookeryError(BAD_NAME, "no", hint="h", detail="d"))
    assert (other.code, other.message, other.hint, other.detail) == (BAD_NAME, "no", "h", "d")


@pytest.mark.parametrize(
    "convert",
    [translate, for_sender, lambda exc: exc.with_hint("again")],
    ids=["translate", "for_sender", "with_hint"],
)
@pytest.mark.parametrize("code", [errors.APPLY_FAILED, errors.IN_DOUBT, errors.STORAGE], ids=lambda c: c.id)
def test_the_message_for_any_caller_survives_conversion(
    convert: Callable[[RookeryError], RookeryError], code: Code
) -> None:
    converted = convert(RookeryError(code, "cannot parse `secret`", public="a value cannot be parsed"))
    assert "secret" not in str(converted.as_dict(public=True))
