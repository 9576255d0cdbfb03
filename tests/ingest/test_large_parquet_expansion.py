"""Parquet files above 32 MiB that would expand beyond the memory are refused, and the server survives."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from tempfile import TemporaryFile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.errors import RookeryError
from engine.ingest.formats.parquet import split_parquet
from engine.ingest.formats.parquet_process import Limits
from engine.web.parquet_reader import WHOLE_PARQUET_BYTES
from tests.support.server import Server, running

MIB = 1 << 20
EVENTS = """
columns:
  - {name: s, type: String}
  - {name: list, type: "Array(String)", json: "$.list[:]"}
engine: {sorting_key: [s]}
"""
OWNED = """
columns:
  - {name: tenant, type: UInt32}
  - {name: list, type: "Array(String)", json: "$.list[:]"}
tenant: {column: tenant, nest_copy: false}
engine: {sorting_key: [tenant]}
"""


def _written(table: pa.Table, **more: object) -> bytes:
    body = io.BytesIO()
    pq.write_table(table, body, compression="zstd", store_schema=False, **more)
    return body.getvalue()


def _padding(rows: int) -> pa.Array:
    """Incompressible bytes, so that a file is large enough to be spooled to disk."""
    return pa.array([os.urandom(WHOLE_PARQUET_BYTES // rows + 1000) for _ in range(rows)])


def _lists_of_one_text(rows: int, length: int) -> bytes:
    values = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array(["x" * length]))
    lists = pa.ListArray.from_arrays(pa.array(range(rows + 1), pa.int32()), values)
    return _written(pa.table({"list": lists, "padding": _padding(rows)}))


def _many_rows(rows: int) -> bytes:
    constant = pa.array([b"y"]).take(pa.array([0] * rows))
    large = pa.array([os.urandom(WHOLE_PARQUET_BYTES + 1000), *[b""] * (rows - 1)])
    return _written(pa.table({"s": constant, "t": constant, "padding": large}))


BOMBS = {
    "one text in many lists": lambda: _lists_of_one_text(3_000, 2 * MIB),
    "many rows of one value": lambda: _many_rows(400_000),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    limits = {"ROOKERY_MAX_PARQUET_MEMORY": 512 * MIB, "ROOKERY_MAX_PARQUET_BYTES": 34 * MIB}
    with running(tmp_path_factory.mktemp("parquet"), **limits) as server:
        server.push({"datasources/events.yaml": EVENTS, "datasources/owned.yaml": OWNED})
        server.admin_json("POST", "/v0/tenants", json={"ids": ["1"]})
        yield server


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_file_that_expands_too_far_is_refused(server: Server, bomb: str) -> None:
    body = BOMBS[bomb]()
    assert WHOLE_PARQUET_BYTES < len(body) < 2 * WHOLE_PARQUET_BYTES
    response = server.admin("POST", "/v0/datasources?name=events&format=parquet", content=body)
    assert (response.status_code, response.json()["code"]) == (413, "RK5030"), response.text
    server.events("events", [{"s": "x"}])


def test_the_database_reads_only_small_files_of_a_tenant(server: Server) -> None:
    """It cannot be interrupted while it reads, and others wait for it."""
    values = pa.DictionaryArray.from_arrays(pa.array([0] * 40, pa.int32()), pa.array(["x" * MIB]))
    lists = pa.ListArray.from_arrays(pa.array(range(41), pa.int32()), values)
    responses = {}
    for size in (1_000, 40_000):
        padding = pa.array([os.urandom(size) for _ in range(40)])
        body = _written(pa.table({"tenant": pa.array([1] * 40, pa.uint32()), "list": lists, "padding": padding}))
        for tenant in ("1", None):
            token = server.mint("DATASOURCES:APPEND:owned", tenant=tenant)
            response = server.post("/v0/datasources?name=owned&format=parquet", token, content=body)
            responses[size, tenant] = response.json().get("code", response.status_code)
    assert responses == {(1_000, "1"): 200, (1_000, None): 200, (40_000, "1"): "RK5030", (40_000, None): 200}


def test_undeclared_expansion_is_limited_by_memory() -> None:
    with TemporaryFile() as file:
        file.write(_lists_of_one_text(3_000, 2 * MIB))
        with pytest.raises(RookeryError) as caught:
            list(split_parquet(file, Limits(512 * MIB, 1 << 60)))
    assert caught.value.code.id == "RK5030"
    assert "memory" in caught.value.message


def test_broken_files_are_client_errors() -> None:
    with TemporaryFile() as file:
        file.write(b"PAR1" + bytes(1000) + b"PAR1")
        with pytest.raises(RookeryError) as caught:
            list(split_parquet(file, Limits(512 * MIB, 1 << 60)))
    assert caught.value.code.id == "RK5001"
