"""The embedded engine lives as long as its warehouse: failed calls do not empty its memory tables."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import sys
from pathlib import Path
from engine.errors import RookeryError
from engine.warehouse.embedded import EmbeddedWarehouse
from engine.warehouse.port import WarehouseOptions
warehouse = EmbeddedWarehouse(Path(sys.argv[1]), WarehouseOptions(readers=1, writers=1, database="empty"))
warehouse.execute("CREATE DATABASE d")
warehouse.execute("CREATE TABLE d.staged (n UInt8) ENGINE = Memory")
warehouse.execute("INSERT INTO d.staged VALUES (1), (2)")
for failing in ("SELECT throwIf(1)", "SELECT nothing"):
    try:
        warehouse.query(failing)
    except RookeryError:
        print(warehouse.query("SELECT count() FROM d.staged").rows[0][0])
warehouse.close()
"""


def test_a_failed_call_does_not_empty_memory_tables(tmp_path: Path) -> None:
    """A failed call retires its handle, which may be the only one."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "data")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.split() == ["2", "2"], done.stderr
