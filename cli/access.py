"""The commands `auth` and `token`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

import typer

from cli import completion, output
from cli.connect import connect
from cli.options import options
from cli.tables import Column
from engine.errors import SCOPE, USAGE, RookeryError

if TYPE_CHECKING:
    from cli.connection import Connection

Name = Annotated[str, typer.Argument(help="Name of the token.")]
ExistingName = Annotated[str, typer.Argument(help="Name of the token.", autocompletion=completion.tokens)]
_SCOPES = "PIPES:READ:NAME, DATASOURCES:READ:NAME[:FILTER], DATASOURCES:APPEND:NAME, READ:ALL, METRICS:READ"
_STATIC_SCOPES = f"{_SCOPES}, DEPLOY, TENANTS:MANAGE, TOKENS:MINT, ADMIN"
Scopes = Annotated[list[str], typer.Option("--scope", help=f"{_STATIC_SCOPES}. May be repeated.")]
JwtScopes = Annotated[list[str], typer.Option("--scope", help=f"{_SCOPES}. May be repeated.")]
Tenant = Annotated[
    str | None, typer.Option("--tenant", help="Bind the token to a tenant.", autocompletion=completion.tenants)
]
_DURATION = re.compile(r"(\d+)([smhd]?)")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(auth)
    group = typer.Typer(no_args_is_help=True, help="Tokens: create, mint, list, show, refresh, remove; signing keys.")
    commands: dict[str, Callable[..., None]] = {
        "create": create,
        "mint": mint,
        "ls": ls,
        "show": show,
        "refresh": refresh,
        "rm": rm,
    }
    commands |= {"key": key, "rotate": rotate}
    for name, command in commands.items():
        group.command(name)(command)
    app.add_typer(group, name="token")


def auth() -> None:
    """Store the server's URL and a token in a private file. Later commands use them. Any valid token is accepted.

    Example: [bold]rookery auth --url http://127.0.0.1:7181 --token TOKEN[/]
    """
    from cli.state_files import auth_file
    from cli.trust import trust
    from engine.private_files import private_file

    settings = options.loaded()
    if not settings.url or settings.token is None:
        raise RookeryError(USAGE, "auth needs --url and --token", hint="rookery auth --url URL --token TOKEN")
    with connect() as connection:
        workspace = _workspace_name(connection)
    stored = {"url": settings.url.rstrip("/"), "token": settings.token.get_secret_value()}
    trust(auth_file(settings), stored)
    private_file(auth_file(settings), json.dumps(stored) + "\n")
    if options.json:
        output.as_json({"file": str(auth_file(settings)), "workspace": workspace})
    else:
        output.say(
            f"workspace {workspace}: stored in {auth_file(settings)}"
            if workspace
            else f"stored in {auth_file(settings)}"
        )


def _workspace_name(connection: Connection) -> str | None:
    """The name of the server's workspace; None if the token is valid and may not see it."""
    try:
        return str(connection.json("GET", "/v0/workspace")["name"])
    except RookeryError as exc:
        if exc.code.id != SCOPE.id:
            raise
        return None


def create(
    name: Name,
    scope: Scopes,
    tenant: Tenant = None,
    ttl: Annotated[
        str | None, typer.Option(help="Lifetime of the token: 900, 15m, 12h, 90d. By default, until it is removed.")
    ] = None,
) -> None:
    """Create a static token, or show it if it exists with the same scopes. Prints only the token.

    Examples: [bold]rookery token create web --scope PIPES:READ:usage --tenant 17[/],
    [bold]rookery token create ci --scope DEPLOY --ttl 90d[/]
    """
    # Older servers do not know these keys, so they are sent only when they are needed.
    expiry = {"ttl": _seconds(ttl), "static": True} if ttl is not None else {}
    with connect() as connection:
        body = {"name": name, "scopes": scope, "tenant": tenant, **expiry}
        token = connection.json("POST", "/v0/tokens", json=body)
    output.as_json(token) if options.json else output.data(token["token"])


def mint(
    name: Name,
    scope: JwtScopes,
    tenant: Tenant = None,
    ttl: Annotated[str, typer.Option(help="Lifetime of the token: 900, 15m, 12h, 7d.")] = "1h",
    fixed: Annotated[
        list[str] | None,
        typer.Option("--fixed", help="PIPE:PARAMETER=VALUE that callers cannot change. May be repeated."),
    ] = None,
    rps: Annotated[int | None, typer.Option(help="Maximum number of requests per second.")] = None,
) -> None:
    """Sign a JWT. Prints only the token.

    Example: [bold]rookery token mint dashboard --scope PIPES:READ:usage --tenant 17 --ttl 1h[/]
    """
    values = _fixed_values(fixed or [], scope)
    scopes = [_scope(text, values.get(text)) for text in scope]
    body = {"name": name, "scopes": scopes, "tenant": tenant, "ttl": _seconds(ttl), "limits": {"rps": rps}}
    with connect() as connection:
        token = connection.json("POST", "/v0/tokens", json=body)
    output.as_json(token) if options.json else output.data(token["token"])


def _fixed_values(fixed: list[str], scopes: list[str]) -> dict[str, dict[str, str]]:
    """Fixed values by scope and parameter. Raises RK7002 for one that belongs to none of the scopes."""
    values: dict[str, dict[str, str]] = {}
    for item in fixed:
        pipe, _, assignment = item.partition(":")
        name, equals, value = assignment.partition("=")
        if not equals:
            raise RookeryError(
                USAGE, f"--fixed {item} is not PIPE:PARAMETER=VALUE", hint="for example --fixed usage:day=2026-01-31"
            )
        scope = f"PIPES:READ:{pipe}"
        if scope not in scopes:
            raise RookeryError(
                USAGE,
                f"--fixed {item} matches no --scope of this token",
                hint=f"add --scope {scope}, or correct the name of the pipe",
            )
        if values.setdefault(scope, {}).setdefault(name, value) != value:
            raise RookeryError(USAGE, f"--fixed {pipe}:{name} is given twice with different values")
    return values


def _scope(text: str, values: dict[str, str] | None) -> object:
    if not values:
        return text
    return {"type": "PIPES:READ", "resource": text.removeprefix("PIPES:READ:"), "fixed_params": values}


def _seconds(text: str) -> int:
    match = _DURATION.fullmatch(text)
    if not match:
        raise RookeryError(USAGE, f"`{text}` is not a duration", hint="900, 15m, 12h, 7d")
    return int(match.group(1)) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}[match.group(2)]


def ls() -> None:
    """List static tokens. `token show` and --json show the tokens themselves.

    Example: [bold]rookery token ls[/]
    """
    with connect() as connection:
        tokens = connection.json("GET", "/v0/tokens")["tokens"]
    if options.json:
        output.as_json(tokens)
        return
    rows = [{**t, "scopes": ", ".join(_scope_text(s) for s in t["scopes"])} for t in tokens]
    output.table(rows, [Column("name"), Column("tenant", 2), Column("origin", 3), Column("scopes", 1, text=True)])


def _scope_text(scope: dict[str, str]) -> str:
    return ":".join(scope[k] for k in ("type", "resource", "filter") if scope.get(k))


def show(name: ExistingName) -> None:
    """Show a static token.

    Example: [bold]rookery token show web[/]
    """
    with connect() as connection:
        token = connection.json("GET", f"/v0/tokens/{quote(name, safe='')}")
    output.as_json(token) if options.json else output.data(token["token"])


def refresh(name: ExistingName) -> None:
    """Replace a static token with a new one of the same name. The old one is refused from then on.

    Example: [bold]rookery token refresh web[/]
    """
    with connect() as connection:
        token = connection.json("POST", f"/v0/tokens/{quote(name, safe='')}/refresh")
    output.as_json(token) if options.json else output.data(token["token"])


def rm(name: ExistingName) -> None:
    """Remove a static token. It is refused from then on.

    Example: [bold]rookery token rm web[/]
    """
    with connect() as connection:
        connection.json("DELETE", f"/v0/tokens/{quote(name, safe='')}")
    output.as_json({"removed": name}) if options.json else output.say(f"token {name} removed")


def key() -> None:
    """Show the key with which your backend can sign JWTs. Keep it secret.

    Example: [bold]rookery token key --json[/]
    """
    with connect() as connection:
        key = connection.json("GET", "/v0/signing-key")
    output.as_json(key) if options.json else output.data(key["secret"])


def rotate(
    overlap: Annotated[str, typer.Option(help="How long JWTs signed with the old key stay valid.")] = "24h",
) -> None:
    """Replace the key that signs JWTs.

    Example: [bold]rookery token rotate --overlap 1h[/]
    """
    with connect() as connection:
        key = connection.json("POST", "/v0/signing-key", json={"overlap": _seconds(overlap)})
    output.as_json(key) if options.json else output.data(key["secret"])
