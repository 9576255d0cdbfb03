"""Random bodies and their chunks."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from engine.ingest.formats.body_rows import Chunker
from tests.support.soak import soak_rounds

T = TypeVar("T", bound=Callable[..., None])


def quick(test: T) -> T:
    """A test of generated bodies."""
    rounds = settings(max_examples=soak_rounds(70), deadline=None, suppress_health_check=[HealthCheck.too_slow])
    marked: T = pytest.mark.soak(rounds(test))
    return marked


text = st.text(st.sampled_from('ab"\\\n\r{}[],: é\U0001f600\u2028\x00'), max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(text, values, max_size=4)
mess = st.lists(
    st.sampled_from([b"{", b"}", b"[", b"]", b",", b'"', b"\\", b"\n", b"\r\n", b"1", b" ", b'{"a":1}', b'"a":', b"\xff", b"\0"]),
    max_size=25,
).map(b"".join)  # fmt: skip


def chunked(body: bytes, sizes: list[int]) -> Iterator[bytes]:
    at = 0
    for size in sizes:
        yield body[at : at + size]
        at += size
    yield body[at:]


chunks = st.lists(st.integers(0, 9), max_size=30)


def cut(kind: str, parts: Iterator[bytes] | list[bytes], size: int = 16, limit: int = 1 << 20) -> list[bytes]:
    cutter = Chunker(kind, size, limit)  # type: ignore[arg-type]
    batches = [batch for part in parts for batch in cutter.feed(part)]
    return batches + list(cutter.finish())


cell = st.lists(st.sampled_from(["a", '"', ",", "\n", "\r\n", " ", ";", "é"]), max_size=6).map("".join)
cells = st.lists(st.lists(cell, min_size=2, max_size=3), max_size=12)


def as_csv(rows: list[list[str]], border: str = "\n") -> bytes:
    out = io.StringIO()
    csv.writer(out, lineterminator=border).writerows([["h1", "h\n2"], *rows])
    return out.getvalue().encode()
