"""`rookery schema`: the JSON Schemas of project files, for editors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli import output
from cli.options import options

FILES = {
    "datasource.schema.json": ["datasources/**/*.yaml"],
    "pipe.schema.json": ["pipes/**/*.yaml", "endpoints/**/*.yaml"],
    "test.schema.json": ["tests/*.yaml"],
}
"""Which project files each schema describes."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(schema)


def schema(
    directory: Annotated[Path, typer.Argument(help="Directory for the schemas, in the project.")] = Path("schemas"),
) -> None:
    """Write the JSON Schemas of project files, so that editors complete and validate them.

    Example: [bold]rookery schema[/]
    """
    from importlib.resources import files

    from cli.project_files import project_folder
    from engine.errors import ALREADY_EXISTS, USAGE, RookeryError

    project = project_folder().resolve()
    folder = (project / directory).resolve()
    if not folder.is_relative_to(project):
        raise RookeryError(USAGE, f"{directory} is outside the project", hint="for example rookery schema schemas")
    directory = folder.relative_to(project)
    if folder.exists() and not folder.is_dir():
        raise RookeryError(ALREADY_EXISTS, f"{folder} is a file", hint="name a directory for the schemas")
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        # In a cloned project, it may be a link to a file elsewhere.
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_bytes((files("engine.project") / name).read_bytes())
    settings = {str(directory / name): patterns for name, patterns in FILES.items()}
    if options.json:
        output.as_json({"directory": str(folder.resolve()), "yaml.schemas": settings})
        return
    output.say(f"wrote {len(FILES)} schemas to {folder}")
    output.say("VS Code with the YAML extension: add this to .vscode/settings.json")
    output.as_json({"yaml.schemas": settings})
    output.say("Other editors with yaml-language-server: begin a file with")
    output.say(f"# yaml-language-server: $schema=../{directory / 'pipe.schema.json'}")
