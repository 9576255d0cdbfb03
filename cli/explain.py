"""The command `explain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cli import completion, output
from cli.connect import connect
from cli.data import parameter, tenant_header, warn_of_ignored
from cli.options import options
from cli.tables import Column
from engine.plurals import counted


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(explain)


def explain(
    endpoint: Annotated[str, typer.Argument(help="Name of the endpoint.", autocompletion=completion.endpoints)],
    parameters: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="Parameters of the endpoint.")
    ] = None,
    tenant: Annotated[
        str | None,
        typer.Option(
            "--tenant",
            autocompletion=completion.tenants,
            help="Explain the call of this tenant. By default, the rows of all tenants are read.",
        ),
    ] = None,
) -> None:
    """Call an endpoint, and show its SQL, the indexes it uses, what it reads, its memory, and where the time goes.

    Example: [bold]rookery explain usage from_day=2026-01-01 --tenant 17[/]
    """
    pairs = [parameter(p) for p in parameters or []]
    name = Path(endpoint).stem if endpoint.endswith(".yaml") else endpoint
    with connect() as connection:
        response = connection.request(
            "GET", f"/v0/pipes/{name}/explain", params=pairs, headers=tenant_header(tenant)
        ).json()
    # Older servers do not send the key.
    warn_of_ignored(endpoint, response.get("ignored_parameters", []))
    if options.json:
        output.as_json(response)
    else:
        _show(response)


def _show(found: dict[str, Any]) -> None:
    """Print an explanation in sections."""
    _section("SQL")
    for line in found["sql"].splitlines():
        for part in output.paragraph(line, 0):
            output.data(part)
    if found["parameters"]:
        _section("Parameters")
        rows = [{"name": n, "value": v} for n, v in found["parameters"].items()]
        output.table(rows, ["name", Column("value", text=True)], number="d")
    _section("Indexes")
    output.table(
        _index_rows(found["tables"]),
        ["table", "index", "parts", "granules", Column("condition", text=True)],
        "no table with an index is read",
    )
    _section("Cost")
    costs = {
        "read": f"{counted(found['read_rows'], 'row')}, {counted(found['read_bytes'], 'byte')}",
        "result": f"{counted(found['result_rows'], 'row')}, {counted(found['result_bytes'], 'byte')}",
        **({} if (memory := found.get("memory_bytes")) is None else {"memory": counted(memory, "byte")}),
        **{stage: f"{ms:,.2f} ms" for stage, ms in found["milliseconds"].items()},
    }
    if found["runs"] > 1:
        costs["runs"] = "2: the first one failed, and the call ran again behind the barrier"
    output.table([{"what": k, "cost": v} for k, v in costs.items()], ["what", Column("cost", text=True)])
    for warning in found["warnings"]:
        for text in output.paragraph(f"warning: {warning['problem']}", 2):
            output.say(text, "yellow")
        first, *others = output.paragraph(f"hint: {warning['hint']}", 8)
        for text in (f"  {first}", *others):
            output.say(text, "dim")


def _section(title: str) -> None:
    output.line((title, "bold cyan"))


def _index_rows(tables: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each table, and below it one for each index that reduced what is read of it."""
    rows = []
    for table in tables:
        rows.append(
            {
                "table": table["table"],
                "index": "all together" if len(table["indexes"]) > 1 else None,
                "parts": f"{table['parts']:,} of {table['parts_total']:,}",
                "granules": f"{table['granules']:,} of {table['granules_total']:,}",
            }
        )
        for index in table["indexes"]:
            rows.append(
                {
                    "table": table["table"],
                    "index": index["name"] or index["type"],
                    "parts": f"{index['parts']:,} of {index['parts_total']:,}",
                    "granules": f"{index['granules']:,} of {index['granules_total']:,}",
                    "condition": index["condition"],
                }
            )
    return rows
