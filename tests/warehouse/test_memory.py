"""A result of any size passes through in bounded memory, in every format."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from engine.warehouse.port import Format
from tests.support.soak import soaking
from tests.support.warehouses import clickhouse_server

ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20

# Runs in a process of its own, since memory is measured for a whole process.
PROGRAM = """
import json, re, sys
from dataclasses import asdict
from pathlib import Path
from engine.warehouse.embedded import EmbeddedWarehouse
from engine.warehouse.port import Format, Statement, WarehouseOptions
from tests.support.warehouses import Server

def memory(what):
    return int(re.search(what + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) << 10

where, few, many, formats = json.loads(sys.argv[1])
options = WarehouseOptions(database="none")
warehouse = Server(**where).open() if isinstance(where, dict) else EmbeddedWarehouse(Path(where), options)
sql = "SELECT number, toString(number) AS s, repeat(hex(sipHash64(number)), 8) AS x FROM numbers({n:UInt64})"
found = {}
for format in (f for f in Format if f.name in formats):
    peaks = []
    for rows in (few, many):
        Path("/proc/self/clear_refs").write_text("5")
        size = 0
        for part in warehouse.stream(Statement(sql, {"n": rows}), format):
            size += len(part)
        peaks.append(memory("VmHWM"))
    found[format.name] = (size, peaks[1] - peaks[0])
print(json.dumps(found))
warehouse.close()
"""


FORMATS = [f.name for f in Format] if soaking() else ["JSON", "CSV", "PARQUET"]
"""Outside the soak tier, a document, rows as text, and columns."""


@pytest.mark.soak
@pytest.mark.parametrize(("kind", "few", "many"), [("embedded", 600_000, 2_000_000), ("server", 200_000, 700_000)])
def test_memory_does_not_grow_with_the_result(kind: str, few: int, many: int, tmp_path: Path) -> None:
    """The first, smaller result fills the engine's own caches."""
    if kind == "embedded":
        memory = measured(str(tmp_path / "data"), few, many)
    else:
        with clickhouse_server(tmp_path) as server:
            memory = measured(vars(server), few, many)
    assert set(memory) == set(FORMATS)
    for format, (size, growth) in memory.items():
        # Parquet packs these rows; as columns they are as large as in the other formats.
        assert size > 130 * many or format == "PARQUET"
        assert growth < 0.5 * 130 * (many - few), (format, growth // MIB)


def measured(where: Any, few: int, many: int) -> dict[str, tuple[int, int]]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps([where, few, many, FORMATS])],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    document: dict[str, tuple[int, int]] = json.loads(done.stdout)
    return document
