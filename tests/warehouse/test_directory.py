"""A data directory belongs to one process, and its owner alone can read it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from engine import errors
from engine.warehouse.directory import LOCK
from engine.warehouse.directory_copy import DirectoryCopy

ROOT = Path(__file__).resolve().parents[2]
HEAD = """
import sys
from pathlib import Path
from engine.errors import RookeryError
from engine.warehouse.embedded import EmbeddedWarehouse, in_this_process
from engine.warehouse.port import WarehouseOptions
path = Path(sys.argv[1])
def opened(path):
    return EmbeddedWarehouse(path, WarehouseOptions(readers=2, writers=2, database="none"))
def refused(path):
    try:
        opened(path)
    except RookeryError as exc:
        return exc
    raise SystemExit("was not refused")
"""


def run(body: str, path: Path) -> str:
    """What a process with an engine of its own prints."""
    done = subprocess.run(
        [sys.executable, "-c", HEAD + body, str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_error_for_a_second_process_names_the_owner_of_the_directory(tmp_path: Path) -> None:
    body = "w = opened(path); print('ready', flush=True); sys.stdin.read(); w.close()"
    command = [sys.executable, "-c", HEAD + body, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin is not None and holder.stdout is not None
        assert holder.stdout.readline() == "ready\n"
        code, message, hint = run(
            "e = refused(path); print(e.code.id, e.message, e.hint, sep='\\n')", tmp_path
        ).split("\n")
        assert code == errors.DIRECTORY_BUSY.id
        assert f"process {holder.pid}" in message
        assert "--url" in hint
        holder.stdin.close()
    assert run("w = opened(path); print(w.query('SELECT 1').rows); w.close()", tmp_path) == "[(1,)]"


def test_a_directory_held_by_another_program_is_busy(tmp_path: Path) -> None:
    body = "import chdb; c = chdb.connect(sys.argv[1]); print('ready', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", "import sys\n" + body, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin is not None and holder.stdout is not None
        assert holder.stdout.readline() == "ready\n"
        assert run("print(refused(path).code.id)", tmp_path) == errors.DIRECTORY_BUSY.id
        holder.stdin.close()


def test_a_process_opens_a_directory_once_until_it_closes_it(tmp_path: Path) -> None:
    body = """
import os
os.umask(0)
w = opened(path)
print(refused(path).code.id, refused(path / "other").code.id)
w.execute("CREATE TABLE none.kept (a UInt8) ENGINE = MergeTree ORDER BY a")
w.execute("INSERT INTO none.kept VALUES (7)")
print(w.query("SELECT value FROM system.server_settings WHERE value LIKE '%rookery.xml%'").rows != [] or
      "rookery.xml" in str(w.query("SELECT * FROM system.server_settings WHERE changed").rows))
w.close()
w.close()
try:
    w.query("SELECT 1")
except RookeryError as exc:
    print(exc.code.id)
other = opened(path / "other"); other.close()
w = opened(path)
print(w.query("SELECT a FROM none.kept").rows)
w.close()
print(refused(path / "rookery.xml" / "data").code.id)
"""
    path = tmp_path / "a" / "data"
    busy = errors.DIRECTORY_BUSY.id
    assert run(body, path).split("\n") == [f"{busy} {busy}", "True", errors.CLOSED.id, "[(7,)]", busy]
    assert "sleep_seconds_when_no_work_min" in (path / "rookery.xml").read_text()
    # Only its owner can read it.
    assert path.stat().st_mode & 0o777 == 0o700
    assert (path / LOCK).stat().st_mode & 0o777 == 0o600


def test_a_dead_process_leaves_no_lock(tmp_path: Path) -> None:
    run("w = opened(path); print('held', flush=True); import os; os._exit(0)", tmp_path)
    assert (tmp_path / LOCK).exists()
    assert run("w = opened(path); print('open'); w.close()", tmp_path) == "open"


def test_the_private_parser_is_replaced_by_a_real_engine(tmp_path: Path) -> None:
    """The engine is one in a temporary directory, which leaves nothing behind."""
    body = """
import tempfile
first = in_this_process()
print(first.parse("select 1")[1], in_this_process() is first)
tempfile.tempdir = str(path)
w = opened(None)
found = list(path.iterdir())
print(len(found), oct(found[0].stat().st_mode)[-3:], w.query("SELECT 1").rows)
print(in_this_process() is w, w.parse("select 2")[1])
w.close()
print(len(list(path.iterdir())))
print(in_this_process().parse("select 3")[1])
"""
    lines = ["SELECT 1 True", "1 700 [(1,)]", "True SELECT 2", "0", "SELECT 3"]
    assert run(body, tmp_path).split("\n") == lines


def test_a_copy_of_a_damaged_directory_is_complete(tmp_path: Path) -> None:
    (tmp_path / "metadata").mkdir()
    (tmp_path / "metadata" / "main.sql").write_bytes(b"ATTACH DATABASE \xff")
    copy = DirectoryCopy(tmp_path)
    copy.finish()
    assert (copy.path / "metadata" / "main.sql").read_bytes() == b"ATTACH DATABASE \xff"
    assert list(copy.tables()) == []
