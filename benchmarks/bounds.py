"""How long each function that author SQL may call works past a query's time limit, and how much memory it takes.

    python -m benchmarks.bounds                      # all functions, about an hour
    python -m benchmarks.bounds --only base58Encode  # some of them
    python -m benchmarks.bounds --seed 7             # other arguments

The engine checks time limits between blocks only. Each function is called with arguments as large as the bounds
allow: one row of long values, many rows with a long constant, many rows of middling values, a lambda over a long
array. A separate process runs the query, after the SQL check, with the limits of a request. What counts is the
processor time that the process takes after the deadline, so other programs on the machine change little.
"""

from __future__ import annotations

import argparse
import os
import random
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import orjson

from engine.errors import RookeryError
from engine.sql.functions import sections

LIMIT_SECONDS = 0.3
OVERSHOOT_SECONDS = 2.0
"""Processor time past the limit from which a call is reported."""
KILL_SECONDS = 5.0
"""Processor time after which the process is killed."""
MEMORY = 1 << 30
SIGNATURES = 3
"""Signatures of a function that are measured."""
TRIES = 160
"""Signatures of three and four arguments that are tried."""

LONG = {
    "text": "repeat('abcdefghij,ABC1', 70000)",
    "digits": "repeat('1', 1000000)",
    "ints": "range(1000000)",
    "floats": "arrayMap(x -> x / 3, range(300000))",
    "texts": "arrayMap(x -> toString(x), range(200000))",
    "nested": "arrayMap(x -> range(10), range(30000))",
    "map": "mapFromArrays(arrayMap(x -> toString(x), range(50000)), range(50000))",
    "ring": "arrayMap(x -> (toFloat64(x % 997), toFloat64(x % 1013)), range(30000))",
    "json": "concat('{\"a\":', toJSONString(range(200000)), '}')",
}
"""Kind of value → a constant as long as is usual for an attack."""
MIDDLING = {
    "text": "repeat('abcdefghij,ABC1', 60 + {n} % 2)",
    "digits": "repeat('1', 900 + {n} % 2)",
    "ints": "range(200 + {n} % 2)",
    "floats": "arrayMap(x -> x / 3, range(200 + {n} % 2))",
    "texts": "arrayMap(x -> toString(x), range(100 + {n} % 2))",
    "nested": "arrayMap(x -> range(10), range(20 + {n} % 2))",
    "map": "mapFromArrays(arrayMap(x -> toString(x), range(30)), range(30))",
    "ring": "arrayMap(x -> (toFloat64(x % 97), toFloat64(x % 101)), range(50 + {n} % 2))",
    "json": "concat('{{\"a\":', toJSONString(range(100 + {n} % 2)), '}}')",
}
"""Kind of value → a value for each number `n`."""
SHORT = {
    "text": "toString({n})", "digits": "toString({n})", "ints": "[toUInt64({n})]", "floats": "[toFloat64({n})]",
    "texts": "[toString({n})]", "nested": "[[toUInt64({n})]]", "map": "map(toString({n}), {n})",
    "ring": "[(toFloat64({n}), 1.), (2., 3.), (4., 9.)]", "json": "concat('{{\"a\":', toString({n}), '}}')",
}  # fmt: skip
SCALARS = {
    "number": "toUInt64({n})", "million": "1000000", "huge": "9223372036854775807", "one": "1", "share": "0.5",
    "name": "'a'", "pattern": "'(a|b)*c'", "zone": "'UTC'", "needles": "['a', 'bc', '1']",
    "day": "toDate({n} % 10000)", "moment": "toDateTime({n} % 1000000000)", "wide": "toUInt256({n})",
    "lambda": "x -> x", "pair": "(1., 2.)",
}  # fmt: skip
KINDS = (*LONG, *SCALARS)
AGGREGATED = ("number", "day", "text", "ints", "floats", "ring", "map", "share", "one", "texts")
ROWS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Call:
    """One query for a function."""

    name: str
    kinds: tuple[str, ...]
    shape: str
    sql: str


def calls_of(engine: Engine, name: str, chosen: random.Random) -> Iterator[Call]:
    """The queries for one function: its first accepted signatures, those of long arguments first."""
    aggregate = name.lower() in sections()["aggregate"]
    kinds = AGGREGATED if aggregate else KINDS
    accepted: list[tuple[str, ...]] = []
    for signature in signatures(kinds, chosen):
        if engine.ask({"describe": f"{name}({', '.join(map(_short, signature))})"}):
            accepted.append(signature)
        if len(accepted) >= 4 * SIGNATURES:
            break
    accepted.sort(key=lambda s: (-sum(k in LONG for k in s), len(s)))
    for signature in accepted[:SIGNATURES]:
        yield from aggregate_calls(name, signature) if aggregate else scalar_calls(name, signature)


def signatures(kinds: tuple[str, ...], chosen: random.Random) -> Iterator[tuple[str, ...]]:
    """Kinds of arguments: none, each one, each pair, and some longer lists, in random order."""
    found: list[tuple[str, ...]] = [(), *((k,) for k in kinds), *((a, b) for a in kinds for b in kinds)]
    found += [tuple(chosen.choices(kinds, k=chosen.choice((3, 3, 4)))) for _ in range(TRIES)]
    chosen.shuffle(found)
    return iter(found)


def scalar_calls(name: str, signature: tuple[str, ...]) -> Iterator[Call]:
    def call(*values: str) -> str:
        return f"{name}({', '.join(values)})"

    long = [k for k in signature if k in LONG]
    yield Call(name, signature, "one row", f"SELECT ignore({call(*map(_long, signature))}) FROM numbers(1)")
    materialized = (f"materialize({_long(k)})" if k in LONG else _short(k) for k in signature)
    yield Call(name, signature, "one row, not constant", f"SELECT ignore({call(*materialized)}) FROM numbers(1)")
    middling = (MIDDLING[k].format(n="number") if k in LONG else _short(k) for k in signature)
    yield Call(name, signature, "many rows", f"SELECT max(ignore({call(*middling)})) FROM numbers({ROWS})")
    for at in range(len(signature)) if len(long) > 1 or len(signature) > 1 else ():
        mixed = [_long(k) if n != at else _short(k) for n, k in enumerate(signature)]
        yield Call(
            name, signature, f"constants but {at + 1}", f"SELECT max(ignore({call(*mixed)})) FROM numbers({ROWS})"
        )
        inside = call(*(v.replace("number", "y") for v in mixed))
        yield Call(
            name,
            signature,
            f"a lambda, {at + 1}",
            f"SELECT arrayMax(arrayMap(y -> ignore({inside}), range(3000000))) FROM numbers(1)",
        )


def aggregate_calls(name: str, signature: tuple[str, ...]) -> Iterator[Call]:
    values = ", ".join(MIDDLING[k].format(n="number") if k in LONG else _short(k) for k in signature)
    for rows in (30_000, 3_000_000):
        yield Call(name, signature, f"{rows} rows", f"SELECT ignore({name}({values})) FROM numbers({rows})")


def _long(kind: str) -> str:
    return LONG[kind] if kind in LONG else _short(kind)


def _short(kind: str) -> str:
    return (SHORT.get(kind) or SCALARS[kind]).format(n="number")


# --- the process that runs the queries ---


def serve() -> None:
    """Read calls from stdin, one JSON object a line, and answer each with what it took."""
    from engine.sql.argument_bounds import SMALL_BLOCKS
    from engine.sql.verify import verify
    from engine.warehouse.embedded import EmbeddedWarehouse
    from engine.warehouse.port import Format, Statement, WarehouseOptions, limit_settings

    warehouse = EmbeddedWarehouse(None, WarehouseOptions(database="bounds", readers=2, writers=1))
    limits = limit_settings(seconds=LIMIT_SECONDS, memory=MEMORY, total_memory=MEMORY, rows=1_000_000)

    def is_valid(call: str) -> bool:
        try:
            warehouse.query(f"DESCRIBE TABLE (SELECT {call} FROM numbers(1))")
        except RookeryError:
            return False
        return True

    def run(sql: str) -> str:
        try:
            text = verify(sql, warehouse, bound=frozenset(), placeholders={})
            settings = limits | (SMALL_BLOCKS if text.slow else {})
            for _ in warehouse.stream(Statement(text.canonical, {}, settings), Format.JSON):
                pass
        except RookeryError as exc:
            return f"{exc.code.id} {(exc.detail or exc.message)[:120]}"
        return ""

    print(flush=True)
    for line in sys.stdin:
        asked = orjson.loads(line)
        answer: Any = is_valid(asked["describe"]) if "describe" in asked else _measured(run, asked["sql"])
        print(orjson.dumps(answer).decode(), flush=True)


def _measured(run: Callable[[str], str], sql: str) -> tuple[str, float, float, int]:
    """The error of a query, its processor time, that after the deadline, and the most memory of the process."""
    Path("/proc/self/clear_refs").write_text("5")
    at_limit: list[float] = []
    timer = threading.Timer(LIMIT_SECONDS, lambda: at_limit.append(time.process_time()))
    began = time.process_time()
    timer.start()
    error = run(sql)
    ended = time.process_time()
    timer.cancel()
    return error, ended - began, ended - at_limit[0] if at_limit else 0.0, _peak_memory()


def _peak_memory() -> int:
    line = next(t for t in Path("/proc/self/status").read_text().splitlines() if t.startswith("VmHWM"))
    return int(line.split()[1]) << 10


def processor_seconds(process: int) -> float:
    """The processor time of a process so far. Raises OSError if it has ended."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Engine:
    """The process, started again after it is killed."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def ask(self, question: dict[str, Any]) -> Any:
        """Its answer; None if it worked too long for that, and was killed."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.bounds", "--serve"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            self._process.stdout.readline()  # type: ignore[union-attr]
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        worked = processor_seconds(process.pid)
        process.stdin.write(orjson.dumps(question).decode() + "\n")
        process.stdin.flush()
        while not select.select([process.stdout], [], [], 0.1)[0]:
            if processor_seconds(process.pid) - worked > KILL_SECONDS:
                self.close()
                return None
        answer = process.stdout.readline()
        if not answer:
            self.close()
            return ["the process ended", 0.0, KILL_SECONDS, 0]
        return orjson.loads(answer)

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve()
        return
    lists = sections()
    names = sorted(lists["plain"] | lists["lambda"] | lists["aggregate"])
    engine, total = Engine(), 0
    for name in [n for n in spelled(names) if not options.only or n in options.only]:
        for call in calls_of(engine, name, random.Random(f"{options.seed} {name}")):
            total += 1
            _report(call, engine.ask({"sql": call.sql}))
    engine.close()
    print(f"{total} calls", flush=True)


def spelled(names: list[str]) -> list[str]:
    """Names as `functions.txt` has them: many functions distinguish case."""
    lines = files("engine.sql").joinpath("functions.txt").read_text(encoding="utf-8").splitlines()
    return sorted({line for line in lines if line.lower() in set(names)})


def _report(call: Call, answer: Any) -> None:
    """Print a call that worked too long past its limit, was killed, or took more memory than its limit."""
    error, _, past, memory = answer or ("killed", 0.0, KILL_SECONDS, 0)
    if past > OVERSHOOT_SECONDS or memory > 2 * MEMORY:
        signature = ", ".join(call.kinds)
        print(f"{past:5.1f} s {memory >> 20:6} MiB  {call.name}({signature}), {call.shape}: {error}", flush=True)
        print(f"        {call.sql}", flush=True)


if __name__ == "__main__":
    main()
