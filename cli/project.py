"""The commands on a project: `init`, `check`, `plan`, `push`, `pipe`, `datasource` and `materialize`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import completion, output, plan_output
from cli.connect import connect
from cli.options import options
from cli.permission import Allow
from cli.tables import Column
from engine.errors import AMBIGUOUS_NODE, STILL_FAILING, USAGE, RookeryError
from engine.plurals import counted

if TYPE_CHECKING:
    from cli.connection import Connection

DATA_FOLDER = ".rookery/"
"""The folder in a project with data, tokens and the log."""
Files = Annotated[
    list[Path] | None,
    typer.Argument(help="Files to push; by default all files of the project.", autocompletion=completion.files),
]
Force = Annotated[bool, typer.Option("--force", help="Also remove everything that depends on it.")]
ResourceName = Annotated[
    str, typer.Argument(help="Name or file of the resource.", autocompletion=completion.resources_of_group)
]
NoDiff = Annotated[bool, typer.Option("--no-diff", help="Do not show the changed lines of files.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(init)
    app.command()(check)
    app.command()(plan)
    app.command()(push)
    app.command()(materialize)
    pipes = typer.Typer(no_args_is_help=True, help="Pipes: generate, list, show, remove.")
    pipes.command("generate")(pipe_generate)
    datasources = typer.Typer(no_args_is_help=True, help="Datasources: list, show, remove.")
    for kind, group in (("pipe", pipes), ("datasource", datasources)):
        _resource_commands(kind, group)
        app.add_typer(group, name=kind)


def init(
    directory: Annotated[
        str | None, typer.Argument(help="Directory of the project; by default the current one.")
    ] = None,
) -> None:
    """Create the folders of a project, and add `.rookery/` to its .gitignore. Files that exist are kept.

    Example: [bold]rookery init my-project[/]
    """
    if directory is not None and not directory.strip():
        raise RookeryError(USAGE, "the directory is empty", hint="for example rookery init my-project")
    root = options.project if directory is None else Path(directory)
    missing = [f for f in ("datasources", "pipes", "endpoints") if not (root / f).is_dir()]
    for folder in missing:
        (root / folder).mkdir(parents=True, exist_ok=True)
    is_ignored = _ignore_data(root / ".gitignore")
    if options.json:
        output.as_json({"directory": str(root.resolve()), "made": missing})
        return
    if missing:
        output.say(f"created {', '.join(f'{f}/' for f in missing)} in {root}")
    if is_ignored:
        output.say(f"added {DATA_FOLDER} to {root / '.gitignore'}")
    if not missing and not is_ignored:
        output.say(f"{root} is already a project; nothing changed")


def _ignore_data(file: Path) -> bool:
    """Add the folder with data and tokens to `.gitignore`. Returns whether it was missing there."""
    from engine.private_files import read_small

    lines = read_small(file).splitlines() if file.exists() else []
    if any(line.strip().strip("/") == DATA_FOLDER.strip("/") for line in lines):
        return False
    with file.open("a", encoding="utf-8") as target:
        # The last line may have no end.
        target.write(("\n" if lines and not file.read_bytes().endswith(b"\n") else "") + f"{DATA_FOLDER}\n")
    return True


def check() -> None:
    """Check the project's files without a server. Prints every error with its file, line and column.

    Example: [bold]rookery check[/]
    """
    from cli.offline_check import compiled
    from cli.project_files import surveyed

    # A push reads the settings, so a setting that is not valid is reported here too.
    options.loaded()
    survey = surveyed()
    overlooked = _overlooked_files()
    project, warnings = survey.project, [w.as_dict() for w in compiled(survey).warnings]
    if options.json:
        output.as_json(
            {
                "datasources": sorted(project.datasources),
                "pipes": sorted(project.pipes),
                "warnings": overlooked + warnings,
            }
        )
        return
    plan_output.show_warnings({"warnings": warnings})
    datasources = counted(len(project.datasources), "datasource")
    pipes = counted(len(project.pipes), "pipe")
    output.say(f"{datasources} and {pipes} are fine", "green")


def plan(
    files: Files = None,
    prune: Annotated[bool, typer.Option(help="Also remove resources that no file declares.")] = False,
    no_diff: NoDiff = False,
) -> None:
    """Show what a push would do. The exit code is 3 if there is anything to do.

    Example: [bold]rookery plan && echo "nothing to do"[/]
    """
    from cli.project_files import push_body

    overlooked = [] if files else _overlooked_files()
    body = push_body(files, dry_run=True, prune=prune)
    with connect(create=True, keep=False) as connection:
        result = _push(connection, body, overlooked, diff=not no_diff)
    if result["changes"] or result["steps"]:
        raise typer.Exit(3)


def push(
    files: Files = None,
    push_deps: Annotated[
        bool, typer.Option("--push-deps", help="Also push missing resources that the files depend on.")
    ] = False,
    dry_run: DryRun = False,
    prune: Annotated[bool, typer.Option("--prune", help="Remove resources that no file declares.")] = False,
    allow: Allow = None,
    skip_backfill: Annotated[
        list[str] | None,
        typer.Option(
            "--skip-backfill",
            metavar="PIPE",
            autocompletion=completion.pipes,
            help="Do not recompute the target of this changed pipe. May be repeated.",
        ),
    ] = None,
    no_diff: NoDiff = False,
) -> None:
    """Apply the files to the workspace. Resources without a file are not removed, except with --prune.

    Examples: [bold]rookery push[/], [bold]rookery push endpoints/usage.yaml --push-deps[/]
    """
    from cli import project_files

    # Older servers do not know this key, so it is sent only when it is needed.
    optional = {"skip_backfill": skip_backfill} if skip_backfill else {}
    overlooked = [] if files else _overlooked_files()
    body = project_files.push_body(
        files, push_deps=push_deps, dry_run=dry_run, prune=prune, allow=allow or [], **optional
    )
    with connect(create=True, keep=not dry_run) as connection:
        result = _push(connection, body, overlooked, diff=not no_diff)
        if not options.json and result["applied"]:
            pushed = project_files.names(files) if files else set(result["endpoints"])
            for name in result["endpoints"]:
                if name in pushed:
                    base_url = "" if connection.temporary else connection.url
                    output.say(f"published {base_url}/v0/pipes/{name}.json")


def _overlooked_files() -> list[dict[str, Any]]:
    """Warnings about files that are not read. They are printed at once, because they may explain errors."""
    from cli.project_files import overlooked_files

    warnings = overlooked_files()
    if not options.json:
        plan_output.show_warnings({"warnings": warnings})
    return warnings


def _push(connection: Connection, body: dict[str, Any], overlooked: list[dict[str, Any]], *, diff: bool) -> Any:
    """The result of a push or a plan, after printing it. The plan of a push is printed before the push begins.

    As JSON, it has the warnings about files that are not read.
    """
    warnings: list[str] = []
    is_shown = False
    with output.progress("plan" if body.get("dry_run") else "push") as update:

        def planned(result: Any) -> None:
            nonlocal is_shown
            if not options.json:
                is_shown = True
                with update.hidden():
                    plan_output.show(result, diff=diff)
                    warnings.extend(plan_output.show_warnings(result))

        result = connection.watched("/v0/push", body, update, planned)
    if options.json:
        output.as_json({**result, "warnings": [*overlooked, *result["warnings"]]})
        return result
    if not is_shown:
        plan_output.show(result, diff=diff)
    plan_output.show_warnings(result, warnings)
    _show_outcome(result)
    return result


def _show_outcome(result: Any) -> None:
    if not result["changes"] and not result["steps"]:
        if any(w["code"] == STILL_FAILING.id for w in result["warnings"]):
            output.say("nothing else to do", "yellow")
        else:
            output.say("nothing to do: the workspace matches the files", "green")
    elif result["applied"]:
        output.say("pushed", "green")
    if result["undeclared"]:
        names = ", ".join(result["undeclared"][:5]) + (", …" if len(result["undeclared"]) > 5 else "")
        output.say(f"deployed, but not in any file: {names}; --prune removes them")


def pipe_generate(
    name: Annotated[str, typer.Argument(help="Name of the new pipe.")],
    sql: Annotated[str, typer.Argument(help="The SELECT of the pipe.")],
    folder: Annotated[str, typer.Option(help="Folder in the project for the file.")] = "pipes",
    force: Annotated[bool, typer.Option("--force", help="Overwrite a file that differs.")] = False,
) -> None:
    """Write the file of a pipe from a query. Nothing is written if the SQL is not valid.

    Example: [bold]rookery pipe generate tenant_1_pipe "SELECT * FROM events WHERE tenant_id = 1"[/]
    """
    from cli.project_files import write_pipe

    if not sql.strip():
        raise RookeryError(
            USAGE, "the query is empty", hint='for example rookery pipe generate one "SELECT 1 AS one"'
        )
    path, problems = write_pipe(name, sql, folder, force=force)
    warnings = [p.as_dict() for p in problems or ()]
    if options.json:
        output.as_json({"file": str(path), "written": problems is not None, "warnings": warnings})
    elif problems is not None:
        plan_output.show_warnings({"warnings": warnings})
        output.data(str(path))
    else:
        output.say(f"{path} exists already")


def materialize(
    pipe: Annotated[str, typer.Argument(help="Name or file of the pipe.", autocompletion=completion.pipes)],
    target: Annotated[
        str, typer.Argument(help="Name of the datasource that the pipe fills.", autocompletion=completion.datasources)
    ],
    node: Annotated[str | None, typer.Option("--node", help="Node to materialize, by name or number.")] = None,
    per_tenant: Annotated[bool, typer.Option("--per-tenant", help="Create a target for each tenant.")] = False,
) -> None:
    """Materialize a pipe into a datasource: write the files, create the view, and deliver existing rows.

    Example: [bold]rookery materialize tenant_1_pipe tenant_1_ds[/]
    """
    from cli.files import write_file
    from cli.project_files import bodies_with, by_name, node_names

    name = Path(pipe).stem if pipe.endswith(".yaml") or "/" in pipe else pipe
    path = Path(pipe) if Path(pipe).is_file() else by_name(name)
    bodies = bodies_with(name, path)
    with connect() as connection:
        request = {"files": bodies, "pipe": name, "target": target, "per_tenant": per_tenant}
        proposal = _proposal(connection, request, node, node_names(request))
        proposed = [{"name": target, **proposal["target"]}, {"name": name, **proposal["pipe"]}]
        files = [*(b for b in bodies if b["name"] not in {name, target}), *proposed]
        body = {"files": files, "only": [target, name], "with_dependencies": True}
        with (
            write_file(proposal, {"target": by_name(target), "pipe": path}),
            output.progress("materialize") as update,
        ):
            result = connection.watched("/v0/push", body, update)
    if options.json:
        output.as_json({**result, "node": proposal["node"]})
        return
    plan_output.show(result)
    plan_output.show_warnings(result)
    output.say(f"node {proposal['node']} fills {target}: {proposal['reason']}", "green")


def _proposal(connection: Connection, request: dict[str, Any], node: str | None, nodes: list[str]) -> Any:
    """The proposal of the server. If several nodes are possible and none was chosen, ask which one."""
    chosen = _chosen(node, nodes)
    try:
        return connection.json("POST", "/v0/materialize", json={**request, "node": chosen})
    except RookeryError as exc:
        if exc.code is not AMBIGUOUS_NODE or node is not None:
            raise
        chosen = _chosen(_ask(nodes), nodes)
        if chosen is None:
            raise
        return connection.json("POST", "/v0/materialize", json={**request, "node": chosen})


def _chosen(reply: str | None, nodes: list[str]) -> str | None:
    """The name of a node from its number (from 1) or name.

    A piped reply may end with a backslash and `n`, because `echo` in some shells prints these characters literally.
    """
    if reply is None:
        return None
    text = reply.strip().removesuffix("\\n").strip()
    if text.isdecimal() and 1 <= int(text) <= len(nodes):
        return nodes[int(text) - 1]
    return text or None


def _ask(nodes: list[str]) -> str | None:
    """Ask for a node at the terminal, or read one line of piped input."""
    for number, name in enumerate(nodes, 1):
        output.say(f"  {number}. {name}")
    if sys.stdin is not None and sys.stdin.isatty():
        return str(typer.prompt("Which node", default=str(len(nodes)), err=True))
    return sys.stdin.readline() or None if sys.stdin is not None else None


def _resource_commands(kind: str, group: typer.Typer) -> None:
    """Add `ls`, `show` and `rm` for pipes or for datasources."""
    plural = f"{kind}s"
    columns = (
        [Column("name"), Column("type"), Column("materialized_datasource", 1), Column("per_tenant", 2)]
        if kind == "pipe"
        else [Column("name"), Column("kind", 1), Column("rows")]
    )

    def ls() -> None:
        with connect() as connection:
            resources = connection.json("GET", f"/v0/{plural}")[plural]
        if options.json:
            output.as_json(resources)
            return
        output.table([{**r, "rows": r.get("statistics", {}).get("row_count")} for r in resources], columns)

    def show(
        name: ResourceName,
    ) -> None:
        with connect() as connection:
            resource = connection.json("GET", f"/v0/{plural}/{_stem(name)}")
        if options.json:
            output.as_json(resource)
        else:
            output.data(resource["content"] or "")

    def rm(
        name: ResourceName,
        force: Force = False,
        dry_run: DryRun = False,
    ) -> None:
        with connect() as connection:
            flags = {"force": str(force).lower(), "dry_run": str(dry_run).lower()}
            result = connection.json("DELETE", f"/v0/{plural}/{_stem(name)}", params=flags)
        if options.json:
            output.as_json(result)
            return
        verb = "would remove" if dry_run else "removed"
        output.say(f"{verb} {', '.join(result['removed'])}")
        for target in result.get("unfilled", []):
            output.say(f"warning: `{target}` keeps its rows, but no pipe fills it", "yellow")

    group.command("ls", help=f"List the deployed {plural}. Example: [bold]rookery {kind} ls[/]")(ls)
    group.command("show", help=f"Show a {kind}'s source. Example: [bold]rookery {kind} show NAME[/]")(show)
    group.command("rm", help=f"Remove a {kind}. Example: [bold]rookery {kind} rm NAME[/]")(rm)


def _stem(name: str) -> str:
    """The name of a resource from its name or its file."""
    return Path(name).stem if name.endswith(".yaml") or "/" in name else name
