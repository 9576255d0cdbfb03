"""The global options of this run of the command line, and the settings with them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cli import output

if TYPE_CHECKING:
    from engine.settings import Settings


@dataclass(slots=True)
class Options:
    """Global options of this run of the command line."""

    url: str | None = None
    token: str | None = None
    project: Path = Path()
    data: Path | None = None
    json: bool = False
    wide: bool = False
    """Whether tables may be wider than the terminal."""
    settings: Settings | None = None
    server: str | None = None
    """The URL of the server that has answered the command; None for a server of the command itself."""

    def loaded(self) -> Settings:
        """The settings. A relative data directory is relative to the project."""
        if self.settings is None:
            self.settings = self._load()
        return self.settings

    def _load(self) -> Settings:
        from engine import settings as loader

        for name, near in loader.misspelled_variables():
            output.say(f"warning: unknown setting {name}; did you mean {near}?", "yellow")
        # An empty ROOKERY_DATA arrives as the current directory, which would be wrong as a data directory.
        data = None if self.data == Path() and not loader.is_set("ROOKERY_DATA") else self.data
        settings = loader.load(url=self.url, token=self.token, data=data)
        if settings.data.is_absolute():
            return settings
        # Links below the project are kept: `cli.trust` does not follow them.
        return settings.model_copy(update={"data": Path(os.path.normpath(self.project.resolve() / settings.data))})


options = Options()
