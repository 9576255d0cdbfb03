"""What requests that bring rows may say: their query parameters and content types. Anything else is refused."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from engine.errors import BAD_REQUEST, MEDIA_TYPE, RookeryError
from engine.query.arguments import CLIENTS, CLIENTS_PREFIX

EVENT_PARAMETERS = CLIENTS | {"name", "wait", "mode", "format"}
FILE_PARAMETERS = CLIENTS | {"name", "mode", "format", "debug"}
CLIENT_PARAMETERS = CLIENTS
LISTING_PARAMETERS = CLIENTS | {"limit", "offset"}
MAX_NAMED_PARAMETERS = 5
_HINTS = {"url": "rows are not fetched from a URL: download the file and send it as the body"}

JSON_TYPES = frozenset(
    {
        "application/x-ndjson",
        "application/ndjson",
        "application/jsonl",
        "application/x-jsonlines",
        "application/jsonlines",
        "application/json-lines",
        "application/json",
        "text/json",
        "text/x-json",
    }
)
PARQUET_TYPES = frozenset({"application/vnd.apache.parquet", "application/parquet", "application/x-parquet"})
CSV_TYPES = frozenset({"text/csv", "application/csv", "text/tab-separated-values"})
UNSPECIFIC_TYPES = frozenset(
    {
        "",
        "text/plain",
        "application/octet-stream",
        "binary/octet-stream",
        "application/gzip",
        "application/x-gzip",
        "application/zstd",
        # What curl sends with --data and browsers with a beacon, whatever the body is.
        "application/x-www-form-urlencoded",
    }
)
"""Types that say nothing of the rows."""
FORM_TYPE = "multipart/form-data"


def refuse_unknown(given: Iterable[str], known: Collection[str]) -> None:
    """Raise RK4009 for parameters that are not known."""
    unknown = [name for name in given if name not in known and not name.startswith(CLIENTS_PREFIX)]
    if not unknown:
        return
    names = ", ".join(f"`{name[:80]}`" for name in unknown[:MAX_NAMED_PARAMETERS])
    hint = next((_HINTS[name] for name in unknown if name in _HINTS), None)
    own = sorted(set(known) - CLIENTS)
    if hint is None:
        hint = f"known are {', '.join(own)}" if own else "no parameters are known here"
    raise RookeryError(BAD_REQUEST, f"unknown parameter {names}", hint=hint)


def media_type(header: str) -> str:
    """The type that a Content-Type names, without its parameters."""
    return header.partition(";")[0].strip().lower()


def format_of(header: str) -> str | None:
    """The format that a Content-Type tells, None if it tells none. Raises RK5019 for a type that no rows come in."""
    kind = media_type(header)
    if kind in UNSPECIFIC_TYPES or kind == FORM_TYPE:
        return None
    for format, kinds in (("ndjson", JSON_TYPES), ("csv", CSV_TYPES), ("parquet", PARQUET_TYPES)):
        if kind in kinds:
            return format
    raise RookeryError(
        MEDIA_TYPE,
        f"rows do not come as `{kind[:80]}`",
        hint="application/x-ndjson, application/json, text/csv, application/vnd.apache.parquet, a form with one "
        "file, or no Content-Type",
    )
