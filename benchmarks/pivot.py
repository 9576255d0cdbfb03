"""The pivot test for as long as wanted: other seeds, more queries. Stops at the first answer that differs.

python -m benchmarks.pivot --seeds 20 --queries 2000
python -m benchmarks.pivot --expressions      # make tests/isolation/expressions.tsv again, for another engine
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from engine.errors import RookeryError
from engine.warehouse.port import Warehouse
from tests.isolation.pivot import Grammar, engine_at, open_pivot, run

TAILS = ("", "'a'", "1", "2", "3", "'UTC'", "'%Y-%m-%d'", "[1, 2]", "['a']", "1, 2", "'a', 'b'", "2, 'a'", "'a', 1",
         "['a'], ['b']", "'[0-9]'", "'[0-9]', 'b'")  # fmt: skip
TEXTS = ("7", "YQ==", "1.2.3.4", "2026-01-02", "2026-01-02 03:04:05", "true", "[1]", '{"a":1}', "a", "(1,2)",
         "61f0c404-5cb3-11e7-907b-a6006ad3dba0", "POINT (1 2)", "AAAA", "ab")  # fmt: skip
FOREIGN = ("!", "[")
CHANGING = re.compile(
    r"now|today|yesterday|rand|uuidv|ulid|snowflake|rownumber|curdate|utc_?time|current_|localtime|fuzz|obfuscate"
)
HEADER = """# Calls of the functions that author SQL may use, with a text `x`, as the engine accepts them.
# Where there is a second field, the call fails on `!` and takes that text.
# Made by `python -m benchmarks.pivot --expressions`.
"""


def functions() -> Iterator[str]:
    """Plain functions of the closed list, each once, without those that change from call to call."""
    section, seen = "", set()
    for line in files("engine.sql").joinpath("functions.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            section = line
        elif section == "[plain]" and line and not line.startswith("#") and line.lower() not in seen:
            seen.add(line.lower())
            if not CHANGING.search(line.lower()):
                yield line


def takes(warehouse: Warehouse, call: str, text: str | None = None) -> bool:
    """Whether a call is valid for a text column, or succeeds on one text."""
    try:
        if text is None:
            warehouse.query(f"DESCRIBE TABLE (SELECT {call} FROM (SELECT '' AS x))")
        else:
            source = "SELECT materialize({x:String}) AS x"
            warehouse.query(
                f"SELECT count() FROM (SELECT toString({call}) AS v FROM ({source})) WHERE v != '?'", {"x": text}
            )
    except RookeryError:
        return False
    return True


def expressions(warehouse: Warehouse) -> Iterator[str]:
    for name in functions():
        calls = [f"{name}(x{', ' if tail else ''}{tail})" for tail in TAILS]
        call = next((c for c in calls if takes(warehouse, c)), None)
        if call is None:
            continue
        usual = None
        if not any(takes(warehouse, call, text) for text in FOREIGN):
            usual = next((text for text in TEXTS if takes(warehouse, call, text)), None)
        yield call if usual is None else f"{call}\t{usual}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--queries", type=int, default=2000)
    parser.add_argument("--expressions", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        warehouse = engine_at(Path(folder))
        if options.expressions:
            found = sorted(expressions(warehouse), key=lambda line: ("\t" not in line, line))
            (Path("tests") / "isolation" / "expressions.tsv").write_text(
                HEADER + "\n".join(found) + "\n", encoding="utf-8"
            )
            return
        for seed in range(2, options.seeds + 2):
            pivot = open_pivot(warehouse, seed, f"s{seed}")
            run(pivot, Grammar(seed), options.queries, until=lambda p: bool(p.found))
            print(f"seed {seed}: {pivot.compared} queries compared, {len(pivot.found)} differ", flush=True)
            for tenant, sql, alone, shared in pivot.found:
                print(f"  tenant {tenant}: {sql}\n    alone:  {str(alone)[:300]}\n    shared: {str(shared)[:300]}")
            pivot.close()
            if pivot.found:
                raise SystemExit(1)


if __name__ == "__main__":
    main()
