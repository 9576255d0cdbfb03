"""Measures the routed fan-out: the duration of an append by number of tenants, and the time until its rows are
readable.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.axes import Axes

from benchmarks.nests import Events, add, project, rows, written
from benchmarks.processes import Direct, direct
from benchmarks.report import Goal, Report
from engine.schema import nest_database
from tests.support.server import Server, running

BATCH = 1_000
SERIES = 20
CALM = 1.0
"""Seconds between a request to a server with a thousand views and the next request to another server."""
SERVER = {"ROOKERY_LOG_LEVEL": "warning", "ROOKERY_VISIBLE_SECONDS": "600"}
_ONE, _PARALLEL = {"parallel_view_processing": 0}, {"parallel_view_processing": 1}

METHOD = f"""One landing datasource, tenants with their own tables, and requests of {BATCH:,} NDJSON rows over one
persistent connection: all rows belong to one tenant (1 active), or are distributed evenly over all (all active).
`stored` is a request with wait=true; before the next one, a request with wait=visible waits until its fan-out is
done. `readable` is a request with wait=visible; with direct views, rows are readable as soon as they are stored. The
bare engine (clickhouse-connect on chDB) inserts the same bytes. `two inserts` writes to a table like landing and to
one like a nest copy, in a directory of a server with one tenant. `direct views` writes to landing in a copy of the
direct server's directory, with views one by one or with parallel_view_processing. All servers run at the same time
and alternate after each request; figures are medians in milliseconds. A series is {SERIES} consecutive batches, until
the last one is readable."""

Measured = dict[str, list[float]]


@dataclass
class Sides:
    """A routed server and a direct one with the same number of tenants; the bare engine with direct views, and
    without views.
    """

    routed: Server
    direct: Server
    views: Direct
    plain: Direct
    tenants: int


@contextmanager
def _sides(home: Path, tenants: int, *, aggregate: bool) -> Iterator[Sides]:
    """All sides of the comparison, running at the same time."""
    with running(home / "direct", **SERVER) as server:
        server.push(project("direct", aggregate=aggregate))
        add(server, 0, tenants)
    shutil.copytree(home / "direct" / ".rookery" / "data", home / "copy", symlinks=True)
    with running(home / "plain", **SERVER) as server:
        server.push(project("routed", aggregate=aggregate))
        add(server, 0, 1)
    with (
        running(home / "routed", **SERVER) as routed,
        running(home / "direct", **SERVER) as by_views,
        direct(home / "copy") as views,
        direct(home / "plain" / ".rookery" / "data") as plain,
    ):
        routed.push(project("routed", aggregate=aggregate))
        add(routed, 0, tenants)
        yield Sides(routed, by_views, views, plain, tenants)
    with direct(home / "routed" / ".rookery" / "data") as engine:
        _all_there(engine)


def run(directory: Path, *, quick: bool) -> Iterator[Report]:
    """Measure the time to an acknowledgement, and until rows are readable, by number of tenants, without and with an
    aggregate.
    """
    tenants, steps = (100, (1, 10, 300)) if quick else (1_000, (1, 100, 5_000))
    with _sides(directory / "raw", tenants, aggregate=False) as sides:
        yield _acknowledged(directory, sides, steps, turns=10 if quick else 15)
        yield _readable(directory, sides, turns=3, judged=True)
    with _sides(directory / "aggregate", tenants, aggregate=True) as sides:
        summed = _readable(directory, sides, turns=2)
    summed.name, summed.title = "routing_aggregate", summed.title + ", and one aggregate in each nest"
    yield summed


def _turns(count: int, **sides: Callable[[], float]) -> Measured:
    """Run each side once per turn, after one turn that is not measured."""
    found: Measured = {name: [] for name in sides}
    for turn in range(count + 1):
        for name, once in sides.items():
            took = once()
            if turn:
                found[name].append(took)
    return found


# --- how soon a request is answered --------------------------------------------------------------------------------


def _acknowledged(directory: Path, sides: Sides, steps: tuple[int, ...], turns: int) -> Report:
    """Alternate requests of one active tenant to servers with few and many tenants."""
    body = rows(BATCH, [0])
    with ExitStack() as stack:
        servers = {sides.tenants: sides.routed}
        for step in steps:
            servers[step] = stack.enter_context(running(directory / f"of{step}", **SERVER))
            servers[step].push(project("routed"))
            add(servers[step], 0, step)
        senders = {step: Events(servers[step]) for step in sorted(servers)}
        for sender in senders.values():
            sender.visible(body)
        found = _turns(turns, **{str(step): _drained(sender, body) for step, sender in senders.items()})
        last = Events(sides.direct)
        mixed = _turns(
            max(3, turns // 3),
            routed=_typical(_drained(senders[sides.tenants], body)),
            direct=_calmed(lambda: last.stored(body)),
        )
    times = {int(step): median(took) for step, took in found.items()}
    flat = max(times.values()) / min(times.values())
    gain = median(d / r for d, r in zip(mixed["direct"], mixed["routed"], strict=True))
    table: list[list[Any]] = [["routed", n, ms, max(found[str(n)])] for n, ms in times.items()]
    table.append(["direct", sides.tenants, median(mixed["direct"]), max(mixed["direct"])])
    return Report(
        "routing_stored",
        f"A request of {BATCH:,} rows until it is stored, by number of tenants",
        METHOD,
        ("fan-out", "tenants", "ms", "slowest ms"),
        table,
        goals=[
            Goal(f"routed: at most 1.5 times as long, from 1 to {max(times):,} tenants", f"{flat:.2f}", flat <= 1.5),
            Goal(f"{sides.tenants:,} tenants: 100 times as fast as direct views", f"{gain:,.0f} times", gain >= 100),
        ],
        draw=lambda axes: _curve(axes, times, sides.tenants, median(mixed["direct"])),
    )


def _drained(sender: Events, body: bytes) -> Callable[[], float]:
    """Time a request until it is stored; then send another, not timed, and wait until all earlier rows are
    delivered.
    """

    def once() -> float:
        took = sender.stored(body)
        sender.visible(body)
        return took

    return once


def _typical(once: Callable[[], float]) -> Callable[[], float]:
    """The median of several consecutive requests: for the first one, the caches are cold."""
    return lambda: median(once() for _ in range(5))


def _calmed(once: Callable[[], float]) -> Callable[[], float]:
    """Send a request, and give the server time to finish its background work."""

    def then_quiet() -> float:
        took = once()
        time.sleep(CALM)
        return took

    return then_quiet


def _curve(axes: Axes, times: dict[int, float], tenants: int, by_views: float) -> None:
    axes.plot(list(times), list(times.values()), "o-", label="routed")
    axes.plot([tenants], [by_views], "s", label="direct views")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("tenants")
    axes.set_ylabel("milliseconds until stored, 1 active")
    axes.legend()


# --- how soon rows are readable ------------------------------------------------------------------------------------


def _readable(directory: Path, sides: Sides, turns: int, *, judged: bool = False) -> Report:
    """Measure one batch of one tenant, one batch of all tenants, and a series of the latter."""
    routed, by_views = Events(sides.routed), Events(sides.direct)
    one, every = rows(BATCH, [0]), rows(BATCH, range(sides.tenants))
    one_file, every_file = written(directory, "one", one), written(directory, "every", every)
    routed.visible(one)

    def bare(file: str, settings: dict[str, int], times: int = 1) -> float:
        answer = sides.views("insert", table="main.events", file=file, times=times, settings=settings)
        return float(sum(answer["took"])) * 1000

    small = _turns(turns * 4, routed=lambda: routed.visible(one), two=lambda: _two_inserts(sides.plain, one_file))
    few = _turns(
        turns,
        routed=lambda: routed.visible(one),
        direct=lambda: by_views.stored(one),
        serial=lambda: bare(one_file, _ONE),
    )
    # With two views each, an insert for all tenants would open more files than a process may.
    by_view = {
        "direct": lambda: by_views.stored(every),
        "serial": lambda: bare(every_file, _ONE),
        "parallel": lambda: bare(every_file, _PARALLEL),
    }
    large = _turns(turns, routed=lambda: routed.visible(every), **(by_view if judged else {}))
    series = {"routed": [_series(routed, every)]}
    if judged:
        series["parallel"] = [bare(every_file, _PARALLEL, SERIES)]
        _all_there(sides.views)
    table = [
        *_rows("1 active", small, "routed", {"two": "bare engine: two inserts"}),
        *_rows("1 active", few, "routed", {"direct": "direct", "serial": "bare engine: direct views"}),
        *_rows("all active", large, "routed", _NAMES),
        *_rows(f"all active, series of {SERIES}", series, "routed", {"parallel": _NAMES["parallel"]}),
    ]
    return Report(
        "routing_readable",
        f"A request of {BATCH:,} rows until they are readable, {sides.tenants:,} tenants",
        METHOD,
        ("", "ms", "slowest ms", "times routed"),
        [[f"{what}: {side}", *figures] for what, side, *figures in table],
        goals=_judged(table, sides.tenants) if judged else [],
        draw=lambda axes: _bars(axes, table),
    )


_NAMES = {
    "direct": "direct",
    "serial": "bare engine: direct views",
    "parallel": "bare engine: direct views in parallel",
}


def _two_inserts(plain: Direct, file: str) -> float:
    """Milliseconds for a table like landing and one like a nest's copy."""
    tables = ("main.events", f"{nest_database('main', '0')}.events")
    return sum(float(plain("insert", table=t, file=file, times=1)["took"][0]) for t in tables) * 1000


def _series(sender: Events, body: bytes) -> float:
    return sum(sender.stored(body) for _ in range(SERIES - 1)) + sender.visible(body)


def _rows(what: str, found: Measured, base: str, names: dict[str, str]) -> list[list[Any]]:
    """Rows of the table: the base, and the others with the median ratio of adjacent requests."""
    table: list[list[Any]] = [[what, base, median(found[base]), max(found[base]), 1.0]]
    for key, name in ((k, n) for k, n in names.items() if k in found):
        ratio = median(o / b for o, b in zip(found[key], found[base], strict=True))
        table.append([what, name, median(found[key]), max(found[key]), ratio])
    return table


def _all_there(engine: Direct) -> None:
    """Raise an error unless every row in landing is in the nests: the results would be invalid."""
    engine("values", statement=_WOKEN)
    landed, delivered = engine("values", statement=_COUNTED)["values"]
    if landed != delivered:
        raise RuntimeError(f"{landed:,} rows are in landing, but {delivered:,} in nests")


_WOKEN = "SELECT sum(length(data_paths)) FROM system.tables"
"""Tables of nests that are not loaded do not show their number of rows."""
_COUNTED = """SELECT sumIf(total_rows, database = 'main'), sumIf(total_rows, startsWith(database, 'main_nest_'))
FROM system.tables WHERE name = 'events'"""


def _judged(table: list[list[Any]], tenants: int) -> list[Goal]:
    """The goals of nests without aggregates."""
    found = {(row[0], row[1]): row[4] for row in table}
    two = 1 / found["1 active", "bare engine: two inserts"]
    single = found["1 active", "direct"]
    whole = found["all active", _NAMES["parallel"]]
    series = found[f"all active, series of {SERIES}", _NAMES["parallel"]]
    return [
        Goal("1 active: at most twice as long as the two plain inserts", f"{two:.2f} times", two <= 2),
        Goal(f"1 active of {tenants:,}: 50 times as fast as direct views", f"{single:,.0f} times", single >= 50),
        Goal("all active: not slower than direct views in parallel", f"{whole:.2f} times as fast", whole >= 1),
        Goal(
            f"{SERIES} batches, all active: 10 times as fast as direct views in parallel",
            f"{series:.1f} times",
            series >= 10,
        ),
    ]


def _bars(axes: Axes, table: list[list[Any]]) -> None:
    names = [f"{what}: {side}" for what, side, *_ in table]
    axes.barh(range(len(table)), [row[2] for row in table], color=["C0" if r[1] == "routed" else "C1" for r in table])
    axes.set_yticks(range(len(table)), names, fontsize=7)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.set_xlabel("milliseconds until readable")
