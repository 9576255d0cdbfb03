"""The option that allows a command to lose rows of the named resources."""

from __future__ import annotations

from typing import Annotated

import typer

from cli import completion

Allow = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-destructive",
        metavar="NAME",
        autocompletion=completion.resources,
        help="Allow this resource to be rebuilt or lost. May be repeated.",
    ),
]
