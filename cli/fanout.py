"""Commands on the fan-out: status, retry, repair."""

from __future__ import annotations

from typing import Any

import typer

from cli import output
from cli.connection import connect, options
from cli.permission import Allow
from engine.errors import MISSED_EXPIRED, STILL_FAILING


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(no_args_is_help=True, help="The way from landing to the tenants' tables: status, repair.")
    for name, command in (("status", status), ("retry", retry), ("repair", repair)):
        group.command(name)(command)
    app.add_typer(group, name="fanout")


def status() -> None:
    """Show how far the tenants' tables are behind, which tenants do not take their rows, and which views are down.

    Example: [bold]rookery fanout status[/]
    """
    with connect() as connection:
        found = connection.json("GET", "/v0/fanout")
    if options.json:
        output.as_json(found)
        return
    rows = [{**d, "strays": len(d["strays"])} for d in found["datasources"]]
    columns = ["datasource", "mode", "rows", "seconds", "in_step", "strays"]
    output.table(rows, columns, "no landing datasources yet")
    lagging = [{"datasource": d["datasource"], **s} for d in found["datasources"] for s in d["strays"]]
    if lagging:
        output.data("\nnot in step:")
        shown = [{**s, "piece": _piece(s["piece"]), "error": output.brief(s["error"])} for s in lagging]
        output.table(shown, ["datasource", "tenant", "rows", "seconds", "piece", "tries", "since", "error"])
    if found["suspended"]:
        output.data("\nviews that are down, or go on without some tenants:")
        shown = [
            {**v, "without": ", ".join(v["without"]), "error": output.brief(v["error"])} for v in found["suspended"]
        ]
        output.table(shown, ["view", "without", "since", "error"])
        output.say("put them back: rookery fanout repair")


def _piece(piece: dict[str, Any] | None) -> str | None:
    """The piece that is outstanding, on one line."""
    if piece is None:
        return None
    if "batches" in piece:
        first, more = piece["batches"][0], len(piece["batches"]) - 1
        return f"batch {first}" + (f" and {more} more" if more else "")
    first, last = piece["blocks"]
    return f"blocks {first} to {last}" + (f" but {len(piece['without'])} batches" if piece["without"] else "")


def retry() -> None:
    """Try at once what waits for its next try.

    Example: [bold]rookery fanout retry[/]
    """
    with connect() as connection:
        found = connection.json("POST", "/v0/fanout/retry")
    if options.json:
        output.as_json(found)
        return
    for name, count in found["retried"].items():
        output.say(f"{name}: {count} tenants are tried again")
    if not found["retried"]:
        output.say("nothing waits", "green")


def repair(allow: Allow = None) -> None:
    """Put suspended views back with the rows that they have missed. Also finishes what was interrupted.

    Exit code 1 when a view would fail again, and stays as it is, and when rows that it has missed are gone. Where it
    is not known what a view has missed, its target is computed again; if rows would be lost by that, it must be
    allowed by name.

    Example: [bold]rookery fanout repair[/]
    """
    with connect() as connection, output.progress("repair") as update:
        result = connection.watched("/v0/push", {"files": [], "allow": allow or []}, update)
    failing = any(w["code"] in (STILL_FAILING.id, MISSED_EXPIRED.id) for w in result["warnings"])
    if options.json:
        output.as_json(result)
    else:
        output.plan(result)
        if not failing:
            output.say("repaired" if result["steps"] else "nothing to repair", "green")
    if failing:
        raise typer.Exit(1)
