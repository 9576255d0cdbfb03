"""Errors of queries as their callers may see them.

The engine's own messages quote values and names, which may come from rows of other tenants. Only callers who read all
rows see them.
"""

from __future__ import annotations

import structlog

from engine.compiler.error_location import quotes_hint
from engine.compiler.scope import FOREIGN_ROW
from engine.errors import (
    BAD_PARAMETER,
    BUSY,
    CANCELLED,
    ENGINE,
    ISOLATION,
    MISSING_PARAMETER,
    QUERY_FAILED,
    RESULT_LIMIT,
    SQL_SEMANTICS,
    TIMEOUT,
    TOO_COMPLEX,
    UNREACHABLE,
    RookeryError,
)
from engine.warehouse.errors import EngineError, suggestion
from engine.warehouse.public_texts import THROW_IF, public_text

log = structlog.get_logger("rookery.query")

OWN_CODES = frozenset({BUSY, UNREACHABLE, BAD_PARAMETER, MISSING_PARAMETER, CANCELLED})
"""Codes whose messages are written by rookery and so do not quote rows. A second run would not change these
errors.
"""
_SEMANTIC = frozenset(
    {
        10,  # NOT_FOUND_COLUMN_IN_BLOCK
        20,  # NUMBER_OF_COLUMNS_DOESNT_MATCH
        42,  # NUMBER_OF_ARGUMENTS_DOESNT_MATCH
        43,  # ILLEGAL_TYPE_OF_ARGUMENT
        44,  # ILLEGAL_COLUMN
        46,  # UNKNOWN_FUNCTION
        47,  # UNKNOWN_IDENTIFIER
        52,  # COLUMN_QUERIED_MORE_THAN_ONCE
        53,  # TYPE_MISMATCH
        60,  # UNKNOWN_TABLE
        63,  # UNKNOWN_AGGREGATE_FUNCTION
        179,  # MULTIPLE_EXPRESSIONS_FOR_ALIAS
        184,  # ILLEGAL_AGGREGATION
        206,  # ALIAS_REQUIRED
        207,  # AMBIGUOUS_IDENTIFIER
        215,  # NOT_AN_AGGREGATE
        352,  # AMBIGUOUS_COLUMN_NAME
        386,  # NO_COMMON_TYPE
        403,  # INVALID_JOIN_ON_EXPRESSION
    }
)
"""The engine's numbers for SQL that is not valid for the tables, whatever their rows are."""


def error_for_caller(exc: RookeryError, *, reads_all: bool) -> RookeryError:
    """The error to send: the engine's own message for callers who read all rows; for others a fixed message chosen
    by the error's number.
    """
    if isinstance(exc, EngineError) and _is_foreign_row(exc):
        log.critical("a row of another tenant was held back", detail=exc.detail or exc.message)
        return RookeryError(ISOLATION, "the query was stopped: it would have read rows of another tenant")
    if not isinstance(exc, EngineError):
        return exc
    if reads_all:
        return _explained(exc)
    if exc.code is TIMEOUT:
        return RookeryError(
            TIMEOUT, "the query took too long", hint="query fewer rows, or ask an admin to raise the limit"
        )
    if exc.code is RESULT_LIMIT:
        return RookeryError(RESULT_LIMIT, "the query exceeded its limit of rows or memory", hint="query fewer rows")
    if exc.code is TOO_COMPLEX:
        return RookeryError(TOO_COMPLEX, "planning the query would take too long", hint="split or shorten the query")
    if exc.code in OWN_CODES:
        return exc
    text = public_text(exc.engine_code, "the query failed")
    return RookeryError(QUERY_FAILED, text, detail=exc.detail)


def add_quotes_hint(exc: RookeryError, sql: str) -> None:
    """Add a hint if the caller's SQL has an unknown name in double quotes, which may be meant as text."""
    cause = exc if isinstance(exc, EngineError) else exc.__cause__
    if exc.hint is None and isinstance(cause, EngineError) and (hint := quotes_hint(cause.message, sql)):
        exc.hint = hint


def _explained(exc: EngineError) -> RookeryError:
    """The engine's error for a caller who reads all rows, with a hint: a similar name, or the setting to raise."""
    code, hint = exc.code, exc.hint or suggestion(exc.detail or "")
    if code is ENGINE and exc.engine_code in _SEMANTIC:
        code = SQL_SEMANTICS
    elif code is TIMEOUT:
        hint = "query fewer rows, or raise ROOKERY_MAX_SECONDS (or the endpoint's `max_seconds`)"
    elif code is RESULT_LIMIT:
        hint = "query fewer rows, or raise ROOKERY_MAX_ROWS or ROOKERY_MAX_MEMORY (or the endpoint's own limits)"
    return EngineError(
        code,
        exc.message,
        engine_code=exc.engine_code,
        hint=hint,
        place=exc.place,
        detail=exc.detail,
        headers=exc.headers,
    )


def _is_foreign_row(exc: EngineError) -> bool:
    """Whether the second check of the tenant failed. Other errors may quote the check's message as part of the
    statement.
    """
    before, _, after = (exc.detail or exc.message).partition("DB::Exception: ")
    return exc.engine_code == THROW_IF and (after or before).startswith(FOREIGN_ROW)
