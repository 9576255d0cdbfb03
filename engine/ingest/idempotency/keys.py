"""Idempotency keys: identify appends that are repetitions of an earlier one."""

from __future__ import annotations

from engine.errors import KEY_REUSED, RookeryError
from engine.ingest.batch import Append

RESERVED_KEY_PREFIX = "\x1f"
"""A character that callers' keys cannot contain. It marks keys that rookery generates."""

Key = tuple[str, str, str]
"""The tenant that the token is bound to (or ''), the datasource, and the idempotency key."""


def key_of(append: Append) -> Key:
    """The key of an append's receipt."""
    return (append.bound_tenant or "", append.datasource, append.key or "")


def part_key(key: str, number: int) -> str:
    """The key of one part of a file that was sent with a key."""
    return f"{key}{RESERVED_KEY_PREFIX}{number}"


def row_key(id: str) -> str:
    """The key with which a quarantined row is replayed."""
    return f"{RESERVED_KEY_PREFIX}{id}"


def require_same_body(first_digest: str, digest: str) -> None:
    """Raise RK5008 if a key is used for another body than the first time."""
    if first_digest != digest:
        raise RookeryError(
            KEY_REUSED,
            "the idempotency key was used for another body",
            hint="use one key per body, and repeat it only in retries",
        )
