"""Commands on tenants: add, ls, show, rm."""

from __future__ import annotations

import sys
from typing import Annotated
from urllib.parse import quote

import typer

from cli import output
from cli.connection import connect, options
from cli.permission import Allow

Id = Annotated[str, typer.Argument(help="Tenant id: a canonical value of the tenant column.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(no_args_is_help=True, help="Tenants: add, list, show, remove.")
    for name, command in (("add", add), ("ls", ls), ("show", show), ("rm", rm)):
        group.command(name)(command)
    app.add_typer(group, name="tenant")


def add(
    ids: Annotated[list[str], typer.Argument(help="One or more tenant ids; - reads them from standard input.")],
    placement: Annotated[str | None, typer.Option(help="pooled (default) or tables.")] = None,
) -> None:
    """Provision tenants; safe to repeat. History arrives exactly once, also while inserts run.

    Example: [bold]rookery tenant add 17 --placement tables[/]
    """
    wanted = [line.strip() for line in sys.stdin if line.strip()] if ids == ["-"] else ids
    with connect() as connection, output.progress("tenants") as update:
        result = connection.watched("/v0/tenants", {"ids": wanted, "placement": placement}, update)
    if options.json:
        output.as_json(result)
        return
    for tenant in result["tenants"]:
        verb = "added" if tenant["created"] else "is there"
        output.say(f"tenant {tenant['id']} {verb} ({tenant['placement']})")


def ls() -> None:
    """List tenants with their rows in landing and how far their tables are behind; tenants that do not exist but have
    rows are shown as unknown.

    Example: [bold]rookery tenant ls[/]
    """
    with connect() as connection:
        found = connection.json("GET", "/v0/tenants")["tenants"]
    if options.json:
        output.as_json(found)
    else:
        columns = ["id", "placement", "state", "rows", "lag_rows", "lag_seconds", "created_at", "error"]
        shown = [{**t, "error": output.brief(t["error"])} for t in found]
        output.table(shown, columns, "no tenants yet: rookery tenant add ID")


def show(tenant: Id) -> None:
    """Show one tenant with the tables of its nest.

    Example: [bold]rookery tenant show 17[/]
    """
    with connect() as connection:
        found = connection.json("GET", f"/v0/tenants/{quote(tenant, safe='')}")
    if options.json:
        output.as_json(found)
        return
    output.data(f"tenant {found['id']}: {found['placement']}, {found['state']}, {found['rows']:,} rows in landing")
    if found["lag_rows"] or found["error"]:
        behind = f"{found['lag_rows']:,} rows and {found['lag_seconds']:,} seconds behind"
        output.data(f"{behind}: {found['error']}" if found["error"] else behind)
    if found["nest"]:
        output.data(f"nest {found['nest']}")
        output.table(found["tables"], ["name", "engine", "rows", "bytes"])


def rm(
    tenant: Id,
    purge: Annotated[bool, typer.Option("--purge", help="Erase its rows in landing too.")] = False,
    allow: Allow = None,
) -> None:
    """Remove a tenant: views before tables, then its tokens. Its rows stay in landing unless purged.

    A purge computes the tenant's groups of shared aggregates again. If other tenants' rows would be lost by that,
    since landing no longer has them, the aggregate must be allowed by name.

    Example: [bold]rookery tenant rm 17[/]
    """
    params = {"purge": str(purge).lower()}
    if allow:
        params["allow"] = ",".join(allow)
    with connect() as connection:
        connection.json("DELETE", f"/v0/tenants/{quote(tenant, safe='')}", params=params)
    if options.json:
        output.as_json({"removed": tenant, "purged": purge})
    else:
        output.say(f"tenant {tenant} removed" + (" and its rows erased" if purge else "; its rows stay in landing"))
