"""The command line: global options, subcommands, and the output of errors."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Annotated

import typer

from cli import (
    access,
    backup,
    data,
    doctor,
    explain,
    fanout,
    interrupts,
    log,
    output,
    project,
    quarantine,
    schema,
    server,
    tenants,
    upgrade,
)
from cli.dev import command as dev
from cli.options import options
from cli.testing import command as testing
from engine.errors import DISK_FULL, INTERNAL, NO_FILE, USAGE, RookeryError

EXIT_CODES = {
    0: "done",
    1: "the input is wrong, or a step failed",
    2: "the command line is not valid",
    3: "`plan` found changes to make",
    4: "refused: the change must be allowed by an option, or other resources depend on it",
    5: "the token does not allow the request",
    6: "the server or the database cannot be reached, or is busy",
    7: "a named resource does not exist",
    8: "`doctor` found an error",
}

app = typer.Typer(
    name="rookery",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Multi-tenant analytics on ClickHouse: declarative pipes, per-tenant tables, JWT-guarded endpoints.",
    epilog="Global options can be anywhere in the command: rookery push --url URL. Exit codes: "
    + "; ".join(f"{n} {text}" for n, text in EXIT_CODES.items()),
)


def _version(requested: bool) -> None:
    if requested:
        from engine.version import version

        output.data(f"rookery {version()}")
        raise typer.Exit


@app.callback()
def globals_(
    url: Annotated[str | None, typer.Option(envvar="ROOKERY_URL", help="URL of a running rookery server.")] = None,
    token: Annotated[str | None, typer.Option(envvar="ROOKERY_TOKEN", help="Token to send to the server.")] = None,
    directory: Annotated[Path, typer.Option("--project", "-C", help="Project directory.")] = Path(),
    store: Annotated[
        Path | None, typer.Option("--data", envvar="ROOKERY_DATA", help="Data directory of the embedded engine.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
    wide: Annotated[bool, typer.Option("--wide", help="Print all columns of tables, at any width.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    """Options of every command."""
    options.url, options.token, options.data, options.json = url or None, token or None, store, json
    options.project, options.settings, options.wide = directory, None, wide


for part in (
    project,
    testing,
    dev,
    schema,
    tenants,
    access,
    data,
    explain,
    quarantine,
    fanout,
    doctor,
    backup,
    upgrade,
    server,
    log,
):
    part.register(app)

_COMMAND = typer.main.get_command(app)
"""The tree of commands, which takes several milliseconds to build."""
_OPTIONS_WITH_VALUE = ("--url", "--token", "--project", "--data", "-C")


def hoisted(arguments: list[str]) -> list[str]:
    """Arguments with the global options moved to the front, where the parser expects them."""
    front: list[str] = []
    others: list[str] = []
    pending = list(arguments)
    hoistable: tuple[str, ...] = _OPTIONS_WITH_VALUE
    while pending:
        word = pending.pop(0)
        if word == "--":
            others += [word, *pending]
            break
        if word in hoistable and pending:
            front += [word, pending.pop(0)]
        elif word in ("--json", "--wide") or word.startswith(tuple(f"{v}=" for v in hoistable if v.startswith("--"))):
            front.append(word)
        else:
            if not others and word == "dev":
                # It has an option --data of its own, and no data directory.
                hoistable = tuple(v for v in hoistable if v != "--data")
            others.append(word)
    return front + others


def exit_code(exc: RookeryError) -> int:
    """The exit code of an error: 2 for a command line that is not valid, otherwise by the status of the error."""
    if exc.code is USAGE:
        return 2
    by_status = {409: 4, 403: 5, 401: 5, 404: 7, 503: 6, 429: 6, 502: 6}
    return by_status.get(exc.code.status, 1)


_PARSER_ERROR: type[Exception] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")
"""The base class of the command-line parser's exceptions, which Typer does not export."""


def run() -> None:
    """Run the command line. Errors are printed here, without a traceback."""
    output.prepare()
    arguments = hoisted(sys.argv[1:])
    # The parser may fail before it has read the option --json, which decides how its error is printed.
    options.json = "--json" in arguments[: arguments.index("--") if "--" in arguments else None]
    try:
        refuse_empty(sys.argv[1:])
        if options.json and (group := unfinished(arguments)):
            raise RookeryError(USAGE, f"`{group}` needs a command", hint=f"{group} --help")
        code = _COMMAND(arguments, prog_name="rookery", standalone_mode=False)
        if code == interrupts.EXIT_CODE:
            interrupts.end_after_cleanup()
        sys.exit(code)
    except _PARSER_ERROR as exc:
        if type(exc).__name__ != "NoArgsIsHelpError":
            # If the command is missing, the help has already been printed.
            _print_error(usage_error(exc))
        sys.exit(2)
    except typer.Abort:
        sys.exit(1)
    except RookeryError as exc:
        _print_error(exc)
        sys.exit(exit_code(exc))
    except UnicodeEncodeError:
        # Bytes of the command line that are not text in the encoding of the locale.
        hint = "use UTF-8, and a locale that has it: export LC_ALL=C.UTF-8"
        error = RookeryError(USAGE, "an argument or a name has characters that cannot be sent", hint=hint)
        _print_error(error)
        sys.exit(exit_code(error))
    except (OSError, RuntimeError) as exc:
        # Before Python 3.13, `Path.resolve` turns the error for links that form a loop into another one.
        cause = exc if isinstance(exc, OSError) else exc.__context__
        if not isinstance(cause, OSError):
            raise
        error = file_error(cause)
        _print_error(error)
        sys.exit(exit_code(error))
    except (LookupError, TypeError, AttributeError, ValueError) as exc:
        if options.server is None:
            raise
        from cli.connection import not_understood

        # Another program, or another version, has answered with other JSON than the command needs.
        error = not_understood(options.server, exc)
        _print_error(error)
        sys.exit(exit_code(error))


def refuse_empty(arguments: list[str]) -> None:
    """Raise RK7002 for an empty argument or value, which scripts pass if a variable is not set.

    It would otherwise mean the default: another server, project, format or key than the script meant.
    """
    for previous, word in zip(["", *arguments], arguments, strict=False):
        # `--fixed=pipe:name=` has a value.
        if word and not (word.startswith("--") and word.find("=") == len(word) - 1):
            continue
        option = word[:-1] if word else previous
        what = f"the value of {option}" if option.startswith("-") and option != "--" else "an argument"
        raise RookeryError(USAGE, f"{what} is empty", hint="is a variable of the script not set?")


def unfinished(arguments: list[str]) -> str | None:
    """The command group that a command line ends with, such as `rookery token`; None if it names a command."""
    command: object = _COMMAND
    name = "rookery"
    pending = list(arguments)
    while pending:
        word = pending.pop(0)
        if word in _OPTIONS_WITH_VALUE:
            pending = pending[1:]
        elif word.startswith("-"):
            if word in ("--help", "--install-completion", "--show-completion"):
                return None
        else:
            command, name = getattr(command, "commands", {}).get(word), f"{name} {word}"
    return name if hasattr(command, "commands") else None


def usage_error(exc: Exception) -> RookeryError:
    """An exception of the parser as an error with a code."""
    context = getattr(exc, "ctx", None)
    command = context.command_path if context is not None else "rookery"
    message = exc.format_message() if hasattr(exc, "format_message") else str(exc)
    return RookeryError(USAGE, message.strip().rstrip("."), hint=f"{command} --help")


def file_error(exc: OSError) -> RookeryError:
    """An exception of the operating system as an error with a code."""
    if isinstance(exc, FileNotFoundError) and _is_directory_gone():
        message = "the current directory does not exist: it was removed or renamed"
        return RookeryError(NO_FILE, message, hint="change to a directory that exists")
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        message = f"the disk of {exc.filename} is full" if exc.filename else "the disk is full"
        return RookeryError(DISK_FULL, message, hint="free space on it, then run the command again")
    if exc.filename is None:
        return RookeryError(INTERNAL, str(exc))
    message = f"{exc.filename} cannot be used: {exc.strerror}"
    return RookeryError(NO_FILE, message, hint="check the path and its permissions")


def _is_directory_gone() -> bool:
    try:
        Path.cwd()
    except FileNotFoundError:
        return True
    return False


def _print_error(exc: RookeryError) -> None:
    if options.json:
        output.as_json(exc.as_dict())
    else:
        output.failure(exc)
