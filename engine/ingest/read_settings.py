"""The engine's settings under which rows are read."""

from __future__ import annotations

from engine.errors import TOO_LARGE, RookeryError

PARSE_SETTINGS: dict[str, int | str] = {
    "input_format_skip_unknown_fields": 1,
    # As the keys of events and the headers of CSV.
    "input_format_parquet_case_insensitive_column_matching": 1,
    # Null means absent: the column's default. The tenant is staged so that null stays null, and is refused.
    "input_format_null_as_default": 1,
    "date_time_input_format": "best_effort",
    "date_time_overflow_behavior": "throw",
    # What looks like a day in an object stays the text that it is: the engine takes the 31st of any month.
    "input_format_try_infer_dates": 0,
    "input_format_try_infer_datetimes": 0,
    "input_format_allow_errors_num": 0,
    "max_insert_threads": 1,
    "async_insert": 0,
}


def is_too_large(exc: RookeryError) -> bool:
    """Whether reading rows took more memory than one batch may."""
    return "Query memory limit" in (exc.detail or "")


def opens_too_far(exc: RookeryError, most: int) -> RookeryError:
    """What the sender of such rows reads."""
    return RookeryError(
        TOO_LARGE,
        f"the rows take more than {most:,} bytes of memory",
        hint="nothing was stored; send them in several requests; the limit is ROOKERY_MAX_INSERT_MEMORY",
        detail=exc.detail,
    )
