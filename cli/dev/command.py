"""The command `dev`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli import completion
from cli.options import options
from engine.errors import USAGE, RookeryError

DEFAULT_ROWS = 10


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(dev)


def dev(
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            metavar="DATASOURCE=FILE",
            help="NDJSON or CSV file with sample rows of a datasource, instead of the fixtures in tests/. "
            "May be repeated.",
        ),
    ] = None,
    tenant: Annotated[
        str | None,
        typer.Option(
            "--tenant", autocompletion=completion.tenants, help="Call pipes as this tenant. By default, as an admin."
        ),
    ] = None,
    test: Annotated[bool, typer.Option("--test", help="Also run the tests of changed endpoints.")] = False,
    rows: Annotated[
        int, typer.Option("--rows", min=0, max=10_000, help="Rows to show of each result.")
    ] = DEFAULT_ROWS,
) -> None:
    """Watch the project: on each save, show the results of changed pipes and every problem, until Ctrl-C.

    Files are pushed to a scratch workspace on a throwaway engine, with sample rows. Your data and your server are not
    used.

    Example: [bold]rookery dev --data events=fixtures/events.ndjson --tenant 7[/]
    """
    samples = dict(map(_sample, data or ()))
    from cli.dev.inputs import Choices
    from cli.dev.session import run

    run(Choices(samples, tenant, test, rows), as_json=options.json)


def _sample(text: str) -> tuple[str, Path]:
    """The datasource and the file of an option --data, relative to the current directory or the project."""
    datasource, equals, name = text.partition("=")
    if not equals or not datasource or not name:
        hint = "for example --data events=fixtures/events.ndjson; `dev` has no data directory"
        raise RookeryError(USAGE, f"--data {text} is not DATASOURCE=FILE", hint=hint)
    in_project = options.project / name
    return datasource, (in_project if in_project.exists() and not Path(name).exists() else Path(name)).absolute()
