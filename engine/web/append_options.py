"""The query parameters and content types of requests with rows. All others are refused."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from engine.errors import BAD_REQUEST, MEDIA_TYPE, RookeryError
from engine.query.arguments import CLIENTS, CLIENTS_PREFIX
from engine.web.known_fields import check_charset

# `mode` and `format` are accepted with the values that mean what this route does.
EVENT_PARAMETERS = CLIENTS | {"name", "wait", "mode", "format"}
FILE_PARAMETERS = CLIENTS | {"name", "mode", "format", "debug"}
CLIENT_PARAMETERS = CLIENTS
LISTING_PARAMETERS = CLIENTS | {"limit", "offset"}
MAX_NAMED_PARAMETERS = 5
"""Maximum number of unknown parameters that an error names."""
_HINTS = {"url": "rookery does not fetch rows from URLs: download the file and send it as the body"}

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
        # curl sends this type with --data, and browsers send it with a beacon, regardless of the body.
        "application/x-www-form-urlencoded",
    }
)
"""Content types that do not determine the format of the rows."""
FORM_TYPE = "multipart/form-data"


def refuse_unknown(names: Iterable[str], known: Collection[str]) -> None:
    """Raise RK4009 for parameters that are neither known nor sent by clients with every request."""
    unknown = [name for name in names if name not in known and not name.startswith(CLIENTS_PREFIX)]
    if not unknown:
        return
    listed = ", ".join(f"`{name[:80]}`" for name in unknown[:MAX_NAMED_PARAMETERS])
    hint = next((_HINTS[name] for name in unknown if name in _HINTS), None)
    own_names = sorted(set(known) - CLIENTS)
    if hint is None:
        hint = f"known parameters: {', '.join(own_names)}" if own_names else "there are no parameters"
    raise RookeryError(BAD_REQUEST, f"unknown parameter {listed}", hint=hint)


def media_type(header: str) -> str:
    """The media type in a Content-Type header, without its parameters."""
    return header.partition(";")[0].strip().lower()


def format_of(header: str) -> str | None:
    """The format that a Content-Type determines, or None. Raises RK5019 for a type that is not a format of rows, or
    a charset other than UTF-8: strings are stored byte for byte.
    """
    check_charset(header, MEDIA_TYPE)
    type = media_type(header)
    if type in UNSPECIFIC_TYPES or type == FORM_TYPE:
        return None
    for format, types in (("ndjson", JSON_TYPES), ("csv", CSV_TYPES), ("parquet", PARQUET_TYPES)):
        if type in types:
            return format
    raise RookeryError(
        MEDIA_TYPE,
        f"rows cannot be sent as `{type[:80]}`",
        hint="application/x-ndjson, application/json, text/csv, application/vnd.apache.parquet, a form with one "
        "file, or no Content-Type",
    )
