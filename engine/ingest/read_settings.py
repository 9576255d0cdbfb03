"""The engine's settings for parsing rows into a stage, and the error for rows that need too much memory."""

from __future__ import annotations

from engine.errors import TOO_LARGE, RookeryError

PARSE_SETTINGS: dict[str, int | str] = {
    "input_format_skip_unknown_fields": 1,
    # Keys of events and headers of CSV ignore case too.
    "input_format_parquet_case_insensitive_column_matching": 1,
    # Null means absent, so the column's default applies. The tenant's stage column is Nullable, so null is rejected.
    "input_format_null_as_default": 1,
    "date_time_input_format": "best_effort",
    "date_time_overflow_behavior": "throw",
    "input_format_allow_errors_num": 0,
    "max_insert_threads": 1,
    "async_insert": 0,
}


def too_large(exc: RookeryError, max_bytes: int) -> RookeryError:
    """RK5004 for the sender of rows that need more than `max_bytes` of memory."""
    return RookeryError(
        TOO_LARGE,
        f"the rows take {memory_above(max_bytes)}",
        hint="nothing was stored; send them in several requests; the limit is ROOKERY_MAX_INSERT_MEMORY",
        detail=exc.detail,
    )


def memory_above(max_bytes: int) -> str:
    """What rows, or an expression on a row, take too much of."""
    return f"more than {max_bytes:,} bytes of memory"
