"""The command `test`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli import output
from cli.options import options


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(test)


def test(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Test files to run; by default all files in tests/.")
    ] = None,
    select: Annotated[
        str | None, typer.Option("-k", metavar="TEXT", help="Run only tests whose file or name contains this text.")
    ] = None,
    junit: Annotated[
        Path | None, typer.Option("--junit", metavar="FILE", help="Write the outcomes as JUnit XML.")
    ] = None,
    update: Annotated[
        bool, typer.Option("--update", help="Write the results into the files that `expect_file` names.")
    ] = False,
) -> None:
    """Run the project's tests on a throwaway engine. Your data and your server are not used.

    The exit code is 1 if a test fails.

    Example: [bold]rookery test[/]
    """
    from cli.testing.run import run

    report = run(files or [], select, update=update)
    if junit is not None:
        from cli.testing.report import write_junit

        write_junit(report, junit)
    if options.json:
        from cli.testing.report import as_dict

        output.as_json(as_dict(report))
    if report.failures:
        raise typer.Exit(1)
