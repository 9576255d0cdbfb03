"""Bodies of any kind are refused or counted; no row reaches another tenant's nest, and other requests are untouched."""

from __future__ import annotations

import gzip
import itertools
import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from engine.errors import RookeryError
from engine.ingest.batch import AppendResult
from engine.ingest.formats.compression import Decompressor
from engine.warehouse.port import Input
from tests.fanout.retrying_writers import project
from tests.support.in_process import Rookery, open_rookery
from tests.support.soak import soak_rounds

pytestmark = pytest.mark.soak

OWN = ("1", "2")
_IDS = itertools.count(1_000_000)
QUIET = settings(
    max_examples=soak_rounds(12),
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)

BOM = b"\xef\xbb\xbf"
TENANT = b'{"tenant_id":1,"id":1,"n":1}'
HOSTILE = (
    b'{"tenant_id":1,"tenant_id":2,"id":1,"n":1}',
    b'{"tenant_id":2,"TENANT_ID":1,"id":1,"n":1}',
    b'{"Tenant_Id":"1","id":1,"n":1}',
    b'{"tenant_id":"01","id":1,"n":1}',
    b'{"tenant_id":1.0,"id":1,"n":1}',
    b'{"tenant_id":true,"id":1,"n":1}',
    b'{"tenant_id":[1],"id":1,"n":1}',
    b'{"tenant_id":{"tenant_id":1},"id":1,"n":1}',
    b'{"tenant_id":4294967298,"id":1,"n":1}',
    b'{"tenant_id":18446744073709551617,"id":1,"n":1}',
    b'{"tenant_id":1,"id":1e400,"n":1}',
    b'{"tenant_id":1,"id":' + b"9" * 60 + b',"n":1}',
    b'{"tenant_id":1,"id":1,"n":-1}',
    b'{"tenant_id":null,"id":1,"n":1}',
    b'{"id":1,"n":1}',
    b'{"tenant_id":"1\\u0000","id":1,"n":1}',
    b'{"tenant_id":"1\x00","id":1,"n":1}',
    b"[" * 300 + b"]" * 300,
    b'{"a":' * 200 + b"1" + b"}" * 200,
    b'{"tenant_id":1,"id":1,"n":1}{"tenant_id":2,"id":2,"n":2}',
    b'{"tenant_id":1,"id":1,"n":1},',
    b'[{"tenant_id":1,"id":1,"n":1},{"tenant_id":2,"id":2,"n":2}]',
    b'{"tenant_id":1,"id":1,"n":1',
    b'"}{"tenant_id":2',
    b'{"tenant_id":1,"id":1,"n":1}\\',
    BOM + TENANT,
    b"\xff\xfe" + TENANT,
    b"{}",
    b"null",
    b'{"_rk_n":0,"tenant_id":1,"id":1,"n":1}',
    b'{"_rk_batch":"x","_rk_at":1,"tenant_id":1,"id":1,"n":1}',
)
WORDS = st.sampled_from(HOSTILE)
SEPARATORS = st.sampled_from((b"\n", b"\r\n", b"\n\n", b" \n", b"\r"))
ROWS = st.builds(
    lambda t, n: json.dumps({"tenant_id": t, "id": 5, "n": n}).encode(),
    st.one_of(st.integers(-1, 4), st.sampled_from(["1", "2", " 1", "9999999999", None])),
    st.one_of(st.integers(-(2**70), 2**70), st.floats(), st.none(), st.text(max_size=5), st.booleans()),
)
BODIES = st.builds(
    lambda parts, between: between.join(parts),
    st.lists(st.one_of(WORDS, ROWS, st.binary(max_size=40)), max_size=6),
    SEPARATORS,
)
CSV_CELLS = st.one_of(
    st.integers(-1, 5).map(str),
    st.sampled_from(['"1"', '"a\nb"', '"a""b"', '"open', "", "\\N", "1,2", "\x00", "1\r\n2"]),
)
CSV = st.builds(
    lambda head, rows: (head + "\n" + "\n".join(",".join(r) for r in rows)).encode(),
    st.sampled_from(
        ["tenant_id,id,n", "n,tenant_id,id", '"tenant_id",id,n', "TENANT_ID,id,n", "tenant_id,tenant_id,id"]
    ),
    st.lists(st.lists(CSV_CELLS, min_size=2, max_size=4), max_size=6),
)


@pytest.fixture(scope="module")
def rookery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rookery]:
    with open_rookery(tmp_path_factory.mktemp("fuzz")) as opened:
        opened.push(project("routed"))
        opened.add(*OWN)
        yield opened


def _count(rookery: Rookery) -> tuple[int, int]:
    (counted,) = rookery.rows(
        "SELECT (SELECT count() FROM main.events), (SELECT count() FROM main.events_quarantine)"
    )
    return int(counted[0]), int(counted[1])


def _sent(rookery: Rookery, body: bytes, format: Input, **more: Any) -> AppendResult | None:
    """The outcome of a body, None if it was refused; anything else is a failure."""
    try:
        return rookery.gateway.append("events", body, format, **more).result(60)
    except RookeryError as exc:
        assert exc.code.status < 500, (exc, body)
        return None


def _accounted(rookery: Rookery, body: bytes, format: Input, **more: Any) -> None:
    """Exactly the rows that the response counts are stored."""
    stored, kept = _count(rookery)
    outcome = _sent(rookery, body, format, **more)
    counts = (outcome.rows, outcome.quarantined) if outcome else (0, 0)
    after = _count(rookery)
    assert (after[0] - stored, after[1] - kept) == counts, body
    if outcome is not None and outcome.visible is not None:
        assert outcome.visible.result(60)


@QUIET
@given(BODIES, st.sampled_from([None, "1"]), st.booleans())
@example(b"\n".join(HOSTILE), None, True)
@example(b"\n".join(HOSTILE), "1", False)
def test_json(rookery: Rookery, body: bytes, bound: str | None, keyed: bool) -> None:
    _accounted(rookery, body, Input.NDJSON, bound_tenant=bound, key=f"k{next(_IDS)}" if keyed else None)


@QUIET
@given(CSV)
@example(b'tenant_id,id,n\n1,1,"2\n2,2,2\n')
@example(b"tenant_id,id,n\r\n1,1,1\r\n2,2,2\r\n")
def test_csv(rookery: Rookery, body: bytes) -> None:
    _accounted(rookery, body, Input.CSV)


@settings(QUIET, max_examples=soak_rounds(5))
@given(st.binary(max_size=200).map(lambda b: b"PAR1" + b + b"PAR1") | st.binary(max_size=200))
def test_invalid_parquet(rookery: Rookery, body: bytes) -> None:
    _accounted(rookery, body, Input.PARQUET)


@settings(QUIET, max_examples=soak_rounds(4))
@given(st.lists(BODIES, min_size=1, max_size=4))
@example(list(HOSTILE))
def test_requests_that_share_a_batch(rookery: Rookery, bodies: list[bytes]) -> None:
    """Requests in one batch with arbitrary others: each well-formed one is stored as sent."""
    sound, wild, answers = [], [], []
    for body in (*bodies, b""):
        rows = [{"tenant_id": t, "id": next(_IDS), "n": 7} for t in (1, 2)]
        sound.append(rows)
        with suppress(RookeryError):
            wild.append(rookery.gateway.append("events", body, Input.NDJSON))
        text = "\n".join(map(json.dumps, rows)).encode()
        answers.append(rookery.gateway.append("events", text, Input.NDJSON, key=f"k{next(_IDS)}"))
    assert [answer.result(60).quarantined for answer in answers] == [0] * len(sound)
    for answer in wild:
        error = answer.exception(60)
        assert error is None or (isinstance(error, RookeryError) and error.code.status < 500), error
    for rows in sound:
        ids = ", ".join(str(row["id"]) for row in rows)
        stored_rows = rookery.rows(f"SELECT tenant_id, id, n FROM main.events WHERE id IN ({ids}) ORDER BY id")
        assert stored_rows == [(row["tenant_id"], row["id"], row["n"]) for row in rows]


@QUIET
@given(st.binary(max_size=60), st.integers(0, 60))
def test_truncated_compressed_bodies(body: bytes, cut: int) -> None:
    packed = gzip.compress(body)
    for torn in (packed[:cut], packed[:-1] + b"\x00", packed + body, body):
        with suppress(RookeryError):
            decompressor = Decompressor("gzip", 1 << 20)
            list(decompressor.decompress(torn[:7]))
            list(decompressor.decompress(torn[7:]))
            decompressor.finish()


def test_nests_hold_only_rows_of_their_tenant(rookery: Rookery) -> None:
    """After everything above: each nest is a filter of landing."""
    rookery.deliver([{"tenant_id": t, "id": next(_IDS), "n": 1} for t in (1, 2)])
    rookery.wait_until_caught_up()
    assert rookery.differences(OWN) == []
