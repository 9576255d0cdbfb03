"""docs/cli.md against the real tree of commands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from cli.app import EXIT_CODES, app

PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^### `rookery ([^`]+)`\n(.*?)(?=^### |\Z)", PAGE, re.MULTILINE | re.DOTALL))


def _commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    if hasattr(command, "commands"):
        for name, inner in command.commands.items():
            yield from _commands(inner, (*path, name))
    else:
        yield " ".join(path), command


COMMANDS = dict(_commands(typer.main.get_command(app)))


def test_documented_commands_equal_the_existing_ones() -> None:
    assert set(SECTIONS) == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_documented(name: str) -> None:
    section = SECTIONS[name]
    for parameter in COMMANDS[name].params:
        if parameter.param_type_name == "option" and parameter.name != "help" and not parameter.hidden:
            for option in parameter.opts:
                assert option in section, option
    known = {o for p in COMMANDS[name].params for o in (*p.opts, *p.secondary_opts)}
    assert set(re.findall(r"`(--[a-z-]+)`", section)) <= known


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_has_an_example(name: str) -> None:
    assert f"rookery {name}" in COMMANDS[name].help
    assert f"rookery {name}" in SECTIONS[name]


def test_every_exit_code_is_documented() -> None:
    assert dict(re.findall(r"^\| (\d) \| (.+?) \|$", PAGE, re.MULTILINE)) == {
        str(n): t for n, t in EXIT_CODES.items()
    }
