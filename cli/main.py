"""The `rookery` command: global options, the sub-commands, and what becomes of errors."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from cli import access, data, doctor, fanout, output, project, quarantine, server, tenants
from cli.connection import options
from engine.errors import INTERNAL, NO_FILE, USAGE, RookeryError
from engine.settings import is_set, misspelled_variables
from engine.version import version as program_version

EXIT_CODES = {
    0: "done",
    1: "the input is wrong, or a step failed",
    2: "the command was not understood",
    3: "`plan` found something to do",
    4: "refused: the change needs permission, or others depend on it",
    5: "the token does not allow it",
    6: "the server or the database cannot be reached, or is busy",
    7: "there is no such thing",
    8: "`doctor` found something wrong",
}

app = typer.Typer(
    name="rookery",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Multi-tenant analytics on ClickHouse: declarative pipes, per-tenant tables, JWT-guarded endpoints.",
    epilog="Global options may stand anywhere: rookery push --url URL. Exit codes: "
    + "; ".join(f"{n} {text}" for n, text in EXIT_CODES.items()),
)


def _version(asked: bool) -> None:
    if asked:
        output.data(f"rookery {program_version()}")
        raise typer.Exit


@app.callback()
def globals_(
    url: Annotated[str | None, typer.Option(envvar="ROOKERY_URL", help="URL of a running rookery server.")] = None,
    token: Annotated[str | None, typer.Option(envvar="ROOKERY_TOKEN", help="Token to send to it.")] = None,
    directory: Annotated[Path, typer.Option("--project", "-C", help="Directory of the project.")] = Path(),
    store: Annotated[
        Path | None, typer.Option("--data", envvar="ROOKERY_DATA", help="Directory of the embedded engine.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Output for programs.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    """Options that every command takes."""
    store = None if store == Path() and not is_set("ROOKERY_DATA") else store
    options.url, options.token, options.data, options.json = url or None, token or None, store, json
    options.project, options.settings = directory, None
    for name, near in misspelled_variables():
        output.say(f"warning: there is no setting {name}; did you mean {near}?", "yellow")


for part in (project, tenants, access, data, quarantine, fanout, doctor, server):
    part.register(app)

_VALUED = ("--url", "--token", "--project", "--data", "-C")


def hoisted(arguments: list[str]) -> list[str]:
    """Arguments with the global options moved to the front, so that they may stand anywhere."""
    front: list[str] = []
    rest: list[str] = []
    pending = list(arguments)
    while pending:
        word = pending.pop(0)
        if word == "--":
            rest += [word, *pending]
            break
        if word in _VALUED and pending:
            front += [word, pending.pop(0)]
        elif word == "--json" or word.startswith(tuple(f"{v}=" for v in _VALUED if v.startswith("--"))):
            front.append(word)
        else:
            rest.append(word)
    return front + rest


def exit_code(exc: RookeryError) -> int:
    """The exit code of an error: 2 if the command was not understood, else by its status."""
    if exc.code is USAGE:
        return 2
    by_status = {409: 4, 403: 5, 401: 5, 404: 7, 503: 6, 429: 6, 502: 6}
    return by_status.get(exc.code.status, 1)


_REFUSED: type[Exception] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")
"""What the parser of the command line raises."""


def main() -> None:
    """Run the command line; every error is printed here, never as a traceback."""
    arguments = hoisted(sys.argv[1:])
    # What the parser refuses comes before the options that it has read.
    options.json = "--json" in arguments[: arguments.index("--") if "--" in arguments else None]
    try:
        if options.json and (group := unfinished(arguments)):
            raise RookeryError(USAGE, f"`{group}` needs a command", hint=f"{group} --help")
        sys.exit(app(arguments, prog_name="rookery", standalone_mode=False))
    except _REFUSED as exc:
        if type(exc).__name__ != "NoArgsIsHelpError":
            # Where a command is missing, the help has been printed.
            _tell(not_understood(exc))
        sys.exit(2)
    except typer.Abort:
        sys.exit(1)
    except RookeryError as exc:
        _tell(exc)
        sys.exit(exit_code(exc))
    except OSError as exc:
        _tell(unusable(exc))
        sys.exit(1)


def unfinished(arguments: list[str]) -> str | None:
    """The group of commands that is named without one of them; None if a command or something else is named."""
    command: object = typer.main.get_command(app)
    name = "rookery"
    pending = list(arguments)
    while pending:
        word = pending.pop(0)
        if word in _VALUED:
            pending = pending[1:]
        elif word.startswith("-"):
            if word in ("--help", "--install-completion", "--show-completion"):
                return None
        else:
            command, name = getattr(command, "commands", {}).get(word), f"{name} {word}"
    return name if hasattr(command, "commands") else None


def not_understood(exc: Exception) -> RookeryError:
    """The parser's refusal of a command, as an error of ours."""
    context = getattr(exc, "ctx", None)
    command = context.command_path if context is not None else "rookery"
    message = exc.format_message() if hasattr(exc, "format_message") else str(exc)
    return RookeryError(USAGE, message.strip().rstrip("."), hint=f"{command} --help")


def unusable(exc: OSError) -> RookeryError:
    """A file that could not be read or written, as an error of ours."""
    if exc.filename is None:
        return RookeryError(INTERNAL, str(exc))
    message = f"{exc.filename} cannot be used: {exc.strerror}"
    return RookeryError(NO_FILE, message, hint="look at the path and at who may read and write there")


def _tell(exc: RookeryError) -> None:
    if options.json:
        output.as_json(exc.as_dict())
    else:
        output.failure(exc)


if __name__ == "__main__":
    main()
