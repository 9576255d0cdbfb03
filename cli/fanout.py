"""The commands `fanout status`, `retry` and `repair`."""

from __future__ import annotations

from typing import Any

import typer

from cli import output, plan_output
from cli.connect import connect
from cli.options import options
from cli.permission import Allow
from cli.tables import Column
from engine.errors import MISSED_EXPIRED, STILL_FAILING
from engine.plurals import counted

_LAGGING = [
    Column("datasource", 1),
    Column("tenant"),
    Column("rows"),
    Column("seconds", 4),
    Column("outstanding", 5),
    Column("tries", 3),
    Column("since", 6),
    Column("error", 2, text=True),
]
_SUSPENDED = [Column("view"), Column("without", 1, text=True), Column("since", 3), Column("error", 2, text=True)]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(
        no_args_is_help=True, help="Delivery of rows from landing to the tenants' tables: status, retry, repair."
    )
    for name, command in (("status", status), ("retry", retry), ("repair", repair)):
        group.command(name)(command)
    app.add_typer(group, name="fanout")


def status() -> None:
    """Show how far the tenants' tables are behind, which tenants are lagging, and which views are suspended.

    Example: [bold]rookery fanout status[/]
    """
    with connect() as connection:
        fanout = connection.json("GET", "/v0/fanout")
    if options.json:
        output.as_json(fanout)
        return
    rows = [{**d, "lagging": len(d["lagging"])} for d in fanout["datasources"]]
    columns = [
        Column("datasource"),
        Column("mode", 1),
        Column("rows"),
        Column("seconds", 3),
        Column("in_sync", 2),
        Column("lagging"),
    ]
    output.table(rows, columns, "no landing datasources yet")
    lagging = [{"datasource": d["datasource"], **s} for d in fanout["datasources"] for s in d["lagging"]]
    if lagging:
        output.data("\nlagging tenants:")
        shown = [{**s, "outstanding": _log_range(s["piece"]), "error": output.one_line(s["error"])} for s in lagging]
        output.table(shown, _LAGGING)
    if fanout["suspended"]:
        output.data("\nviews that are suspended, or exclude some tenants:")
        shown = [
            {**v, "without": ", ".join(v["without"]), "error": output.one_line(v["error"])}
            for v in fanout["suspended"]
        ]
        output.table(shown, _SUSPENDED)
        output.say("restore them: rookery fanout repair")


def _log_range(outstanding: dict[str, Any] | None) -> str | None:
    """The part of the landing log that a tenant lacks, on one line."""
    if outstanding is None:
        return None
    if "batches" in outstanding:
        first, more = outstanding["batches"][0], len(outstanding["batches"]) - 1
        return f"batch {first}" + (f" and {more} more" if more else "")
    first, last = outstanding["blocks"]
    delivered = len(outstanding["without"])
    return f"blocks {first} to {last}" + (f" except {delivered} batches" if delivered else "")


def retry() -> None:
    """Retry failing tenants now instead of at their next scheduled attempt.

    Example: [bold]rookery fanout retry[/]
    """
    with connect() as connection:
        result = connection.json("POST", "/v0/fanout/retry")
    if options.json:
        output.as_json(result)
        return
    for name, count in result["retried"].items():
        output.say(f"{name}: retrying {counted(count, 'tenant')}")
    if not result["retried"]:
        output.say("nothing to retry", "green")


def repair(allow: Allow = None) -> None:
    """Restore suspended views and deliver the rows that they missed. Also completes interrupted work.

    The exit code is 1 if a view would fail again and stays suspended, or if rows that it missed no longer exist.
    If the missed rows are not known, the view's target is recomputed.
    If that would lose rows, --allow-destructive must name the target.

    Example: [bold]rookery fanout repair[/]
    """
    with connect() as connection, output.progress("repair") as update:
        result = connection.watched("/v0/push", {"files": [], "allow": allow or []}, update)
    failing = any(w["code"] in (STILL_FAILING.id, MISSED_EXPIRED.id) for w in result["warnings"])
    if options.json:
        output.as_json(result)
    else:
        plan_output.show(result)
        plan_output.show_warnings(result)
        if not failing:
            output.say("repaired" if result["steps"] else "nothing to repair", "green")
    if failing:
        raise typer.Exit(1)
