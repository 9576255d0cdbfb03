"""The commands `tenant add`, `ls`, `show` and `rm`."""

from __future__ import annotations

import sys
from typing import Annotated
from urllib.parse import quote

import typer

from cli import completion, output
from cli.connect import connect
from cli.options import options
from cli.permission import Allow
from cli.tables import Column
from engine.errors import USAGE, RookeryError
from engine.plurals import counted

Id = Annotated[
    str, typer.Argument(help="Id of the tenant, as in the tenant column.", autocompletion=completion.tenants)
]

_COLUMNS = [
    Column("id"),
    Column("placement", 4),
    Column("state"),
    Column("rows"),
    Column("lag_rows", 1),
    Column("lag_seconds", 5),
    Column("created_at", 6),
    Column("error", 2, text=True),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(no_args_is_help=True, help="Tenants: add, list, show, remove.")
    for name, command in (("add", add), ("ls", ls), ("show", show), ("rm", rm)):
        group.command(name)(command)
    app.add_typer(group, name="tenant")


def add(
    ids: Annotated[
        list[str],
        typer.Argument(
            help="One or more tenant ids; - reads them from standard input.", autocompletion=completion.new_tenants
        ),
    ],
    placement: Annotated[str | None, typer.Option(help="pooled (default) or tables.")] = None,
) -> None:
    """Add tenants. Their rows in landing are delivered exactly once, even while inserts run. Safe to repeat.

    Example: [bold]rookery tenant add 17 --placement tables[/]
    """
    tenant_ids = [line.strip() for line in sys.stdin if line.strip()] if ids == ["-"] else ids
    if not tenant_ids:
        raise RookeryError(USAGE, "standard input has no tenant ids", hint="one id per line")
    with connect() as connection, output.progress("tenants") as update:
        result = connection.watched("/v0/tenants", {"ids": tenant_ids, "placement": placement}, update)
    if options.json:
        output.as_json(result)
        return
    for tenant in result["tenants"]:
        verb = "added" if tenant["created"] else "exists already"
        output.say(f"tenant {tenant['id']} {verb} ({tenant['placement']})")


def ls() -> None:
    """List tenants with their rows in landing and how far their tables are behind.

    Tenants that have rows but were not added are shown as unknown.

    Example: [bold]rookery tenant ls[/]
    """
    with connect() as connection:
        tenants = connection.json("GET", "/v0/tenants")["tenants"]
    if options.json:
        output.as_json(tenants)
    else:
        shown = [{**t, "error": output.one_line(t["error"])} for t in tenants]
        output.table(shown, _COLUMNS, "no tenants yet: rookery tenant add ID")


def show(tenant: Id) -> None:
    """Show a tenant and the tables in its nest.

    Example: [bold]rookery tenant show 17[/]
    """
    with connect() as connection:
        record = connection.json("GET", f"/v0/tenants/{quote(tenant, safe='')}")
    if options.json:
        output.as_json(record)
        return
    counts = f"{record['placement']}, {record['state']}, {counted(record['rows'], 'row')} in landing"
    output.data(f"tenant {record['id']}: {counts}")
    if record["lag_rows"] or record["error"]:
        behind = f"{counted(record['lag_rows'], 'row')} and {counted(record['lag_seconds'], 'second')} behind"
        output.data(f"{behind}: {record['error']}" if record["error"] else behind)
    if record["nest"]:
        output.data(f"nest {record['nest']}")
        output.table(record["tables"], ["name", "engine", "rows", "bytes"])


def rm(
    tenant: Id,
    purge: Annotated[bool, typer.Option("--purge", help="Also erase the tenant's rows in landing.")] = False,
    allow: Allow = None,
) -> None:
    """Remove a tenant, its tables and its tokens. Without --purge, its rows stay in landing.

    A purge recomputes shared aggregates that include the tenant's rows.
    If landing no longer has all rows of the other tenants, --allow-destructive must name the aggregate.

    Example: [bold]rookery tenant rm 17[/]
    """
    params = {"purge": str(purge).lower()}
    if allow and not purge:
        raise RookeryError(
            USAGE, "--allow-destructive has no effect without --purge", hint="only a purge can lose other rows"
        )
    if allow:
        params["allow"] = ",".join(allow)
    with connect() as connection, output.progress("purge" if purge else "remove") as update:
        connection.watch("DELETE", f"/v0/tenants/{quote(tenant, safe='')}", update, params=params)
    if options.json:
        output.as_json({"removed": tenant, "purged": purge})
    else:
        output.say(f"tenant {tenant} removed" + (" and its rows erased" if purge else "; its rows stay in landing"))
