"""The option by which a command may lose what it names."""

from __future__ import annotations

from typing import Annotated

import typer

Allow = Annotated[
    list[str] | None,
    typer.Option("--allow-destructive", metavar="NAME", help="Let this resource be rebuilt or lost."),
]
