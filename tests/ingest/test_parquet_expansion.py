"""Parquet files that expand to many bytes are refused before they use the server's memory."""

from __future__ import annotations

import io
import os
import shutil
import socket
import time
from pathlib import Path
from tempfile import TemporaryFile, gettempdir
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from engine.ingest.formats.parquet import split_parquet
from engine.ingest.formats.parquet_process import Limits
from engine.web.uploads import MAX_BYTES_IN_MEMORY
from tests.fanout.test_full_disk import mounted_disk
from tests.support.server import running

EVENTS = """
columns:
  - {name: s, type: String}
engine: {sorting_key: [s]}
"""


def _file(rows: int, length: int, padding: int = 0) -> bytes:
    """Rows that share one text."""
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array(["x" * length]))
    columns = {"s": texts.cast(pa.dictionary(pa.int32(), pa.string()))}
    if padding:
        columns["padding"] = pa.array([os.urandom(padding // rows) for _ in range(rows)])
    body = io.BytesIO()
    pq.write_table(pa.table(columns), body, compression="zstd", store_schema=False)
    return body.getvalue()


def test_a_small_file_of_many_long_texts_is_refused(tmp_path: Path) -> None:
    bomb = _file(2_000, 1 << 20)
    assert len(bomb) < 10_000
    with running(tmp_path) as server:
        server.push({"datasources/events.yaml": EVENTS})
        sent = "/v0/datasources?name=events&format=parquet"
        response = server.admin("POST", sent, content=bomb)
        assert (response.status_code, response.json()["code"]) == (413, "RK5004")
        assert server.admin_json("POST", sent, content=_file(50, 1 << 20))["rows"] == 50
        assert server.sql("SELECT count() AS n, min(length(s)) AS l FROM events") == [{"n": 50, "l": 1 << 20}]


def test_chunks_of_a_large_file_store_shared_texts_once() -> None:
    with TemporaryFile() as file:
        file.write(_file(2_000, 1 << 20, 40 << 20))
        (part,) = split_parquet(file, Limits(2 << 30, 1 << 40))
    assert len(part.data) < 60 << 20
    assert pa.default_memory_pool().max_memory() < 1 << 30
    assert pq.ParquetFile(io.BytesIO(part.data)).metadata.num_rows == 2_000


def test_a_file_spooled_to_disk_respects_the_reserve_of_free_space(tmp_path: Path) -> None:
    # Less than three times the reserve is free: enough for rows, and not for large temporary files.
    reserve = shutil.disk_usage(gettempdir()).free * 4 // 10
    with running(tmp_path, ROOKERY_MIN_FREE=reserve) as server:
        server.push({"datasources/events.yaml": EVENTS})
        response = server.admin(
            "POST", "/v0/datasources?name=events&format=parquet", content=b"PAR1" + bytes(MAX_BYTES_IN_MEMORY)
        )
        assert (response.status_code, response.json()["code"]) == (507, "RK6008")
        server.events("events", [{"s": "x"}])


def test_a_writer_leaves_space_for_temporary_files_to_others(tmp_path: Path) -> None:
    url, size = "/v0/datasources?name=events&format=parquet", 12 << 20
    with mounted_disk(tmp_path / "temporary") as disk, running(tmp_path, TMPDIR=disk, ROOKERY_MIN_FREE=0) as server:
        server.push({"datasources/events.yaml": EVENTS})
        first, second = (server.static(name, "DATASOURCES:APPEND:events") for name in ("first", "second"))
        place = urlsplit(server.url)
        with socket.create_connection((place.hostname, place.port), 60) as connection:
            head = f"POST {url} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {first}\r\n"
            connection.sendall(f"{head}content-length: {size + 1}\r\n\r\n".encode() + bytes(size))
            for _ in range(3000):
                if shutil.disk_usage(disk).used >= size - MAX_BYTES_IN_MEMORY:
                    break
                time.sleep(0.01)
            answers = [server.post(url, token, content=bytes(size)) for token in (second, first)]
        assert [(a.status_code, a.json()["code"]) for a in answers] == [(400, "RK5001"), (507, "RK6008")]
