"""Commands on projects: init, check, plan, push, pipe, datasource, materialize."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from cli import output
from cli.connection import Connection, connect, options
from cli.files import write_file
from cli.permission import Allow
from engine.errors import (
    AMBIGUOUS_NODE,
    BAD_NAME,
    NO_FILE,
    NOT_A_PROJECT,
    STILL_FAILING,
    TARGET_EXISTS,
    UNKNOWN_RESOURCE,
    USAGE,
    RookeryError,
)
from engine.project.files import FOLDERS
from engine.project.model import Node, Pipe, Project
from engine.project.parse import Survey, load, load_files, parse_source, survey
from engine.project.write import render_pipe

Files = Annotated[list[Path] | None, typer.Argument(help="Files to push; all of the project when none is given.")]
Force = Annotated[bool, typer.Option("--force", help="Also remove everything that stands on it.")]
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


def init(directory: Annotated[Path | None, typer.Argument(help="Where; here by default.")] = None) -> None:
    """Make the folders of a project. In an existing project nothing changes.

    Example: [bold]rookery init my-project[/]
    """
    root = directory or options.project
    made = [f for f in ("datasources", "pipes") if not (root / f).is_dir()]
    for folder in made:
        (root / folder).mkdir(parents=True, exist_ok=True)
    ignore = root / ".gitignore"
    if not ignore.exists():
        ignore.write_text(".rookery/\n", encoding="utf-8")
    if options.json:
        output.as_json({"directory": str(root.resolve()), "made": made})
        return
    output.say(f"made {', '.join(made)} in {root}" if made else f"{root} is a project already; nothing changed")


def _survey() -> Survey:
    root = options.project
    if not root.is_dir():
        raise RookeryError(NOT_A_PROJECT, f"there is no directory {root.resolve()}", hint="correct -C DIRECTORY")
    if not any((root / f).is_dir() for f in FOLDERS):
        raise RookeryError(
            NOT_A_PROJECT, f"{root.resolve()} has no datasources/ or pipes/", hint="rookery init, or -C DIRECTORY"
        )
    return survey(root)


def _project() -> Project:
    found = _survey()
    if found.problems.problems:
        # Whoever has to mend files wants to know all that is wrong with them.
        from cli.offline_check import compiled

        compiled(found)
    return found.project


def _bodies(project: Project) -> list[dict[str, str]]:
    return [{"name": r.name, "file": r.place.file or "", "text": r.text} for r in project.resources()]


def check() -> None:
    """Check the project's files; needs no server. Every problem is told, with its place.

    Example: [bold]rookery check[/]
    """
    from cli.offline_check import compiled

    found = _survey()
    project, warnings = found.project, [w.as_dict() for w in compiled(found).warnings]
    if options.json:
        output.as_json(
            {"datasources": sorted(project.datasources), "pipes": sorted(project.pipes), "warnings": warnings}
        )
        return
    output.plan({"changes": [], "steps": [], "warnings": warnings})
    datasources = output.counted(len(project.datasources), "datasource")
    pipes = output.counted(len(project.pipes), "pipe")
    output.say(f"{datasources} and {pipes} are fine", "green")


def plan(
    files: Files = None, prune: Annotated[bool, typer.Option(help="Also what only exists live.")] = False
) -> None:
    """Show what a push would do, also before the first one. Exit code 3 when there is anything to do.

    Example: [bold]rookery plan && echo "nothing to do"[/]
    """
    body = _body(files, dry_run=True, prune=prune)
    with connect(create=True, keep=False) as connection:
        result = _push(connection, body)
    _show(result)
    if result["changes"] or result["steps"]:
        raise typer.Exit(3)


def push(
    files: Files = None,
    push_deps: Annotated[
        bool, typer.Option("--push-deps", help="With what the files need, if it is missing.")
    ] = False,
    dry_run: DryRun = False,
    prune: Annotated[bool, typer.Option("--prune", help="Remove what the project no longer has.")] = False,
    allow: Allow = None,
    skip_backfill: Annotated[
        list[str] | None,
        typer.Option("--skip-backfill", metavar="PIPE", help="Keep what the changed pipe has filled so far."),
    ] = None,
) -> None:
    """Make the workspace what the files declare. Nothing is removed because it is absent here.

    Examples: [bold]rookery push[/], [bold]rookery push endpoints/usage.yaml --push-deps[/]
    """
    kept = {"skip_backfill": skip_backfill} if skip_backfill else {}
    body = _body(files, push_deps=push_deps, dry_run=dry_run, prune=prune, allow=allow or [], **kept)
    with connect(create=True, keep=not dry_run) as connection:
        result = _push(connection, body)
        _show(result)
        if not options.json and result["applied"]:
            given = {r.name for r in _given(files)} if files else set(result["endpoints"])
            for name in result["endpoints"]:
                if name in given:
                    where = "" if connection.passing else connection.url
                    output.say(f"published {where}/v0/pipes/{name}.json")


def _given(files: Sequence[Path]) -> list[Any]:
    return list(load_files(options.project, _paths(files)).resources())


def _paths(files: Iterable[Path]) -> list[Path]:
    """Paths as given, relative to where the command runs; a bare name is searched in the project."""
    found = []
    for file in files:
        path = file.absolute()
        if not path.exists():
            named = _by_name(file.name.removesuffix(".yaml"))
            if named is None:
                raise RookeryError(NO_FILE, f"there is no file {file}", hint="give a path, or the name of a resource")
            path = named
        found.append(path)
    return found


def _by_name(name: str) -> Path | None:
    root = options.project.resolve()
    found = [p for f in FOLDERS for p in sorted((root / f).rglob(f"{name}.yaml"))]
    return found[0] if found else None


def _body(files: Sequence[Path] | None, **given: Any) -> dict[str, Any]:
    """What a push sends. Raises Problems for files that cannot be read, before anything is opened."""
    body: dict[str, Any] = {k: v for k, v in given.items() if k != "push_deps"}
    if not files:
        project = _project()
    else:
        listed = load_files(options.project, _paths(files))
        body["only"] = [r.name for r in listed.resources()]
        body["with_dependencies"] = given.get("push_deps", False)
        project = load(options.project).merged(listed) if body["with_dependencies"] else listed
    body["files"] = _bodies(project)
    return body


def _push(connection: Connection, body: dict[str, Any]) -> Any:
    with output.progress("push") as update:
        return connection.watched("/v0/push", body, update)


def _show(result: Any) -> None:
    if options.json:
        output.as_json(result)
        return
    output.plan(result)
    if not result["changes"] and not result["steps"]:
        if any(w["code"] == STILL_FAILING.id for w in result["warnings"]):
            output.say("nothing else to do", "yellow")
        else:
            output.say("nothing to do: the workspace is as the files say", "green")
    elif result["applied"]:
        output.say("pushed", "green")
    if result["undeclared"]:
        names = ", ".join(result["undeclared"][:5]) + (", …" if len(result["undeclared"]) > 5 else "")
        output.say(f"live, and in none of the files: {names}; --prune removes what no file declares")


def pipe_generate(
    name: Annotated[str, typer.Argument(help="Name of the new pipe.")],
    sql: Annotated[str, typer.Argument(help="Its SELECT.")],
    folder: Annotated[str, typer.Option(help="Folder of the project to write into.")] = "pipes",
    force: Annotated[bool, typer.Option("--force", help="Write over a file that differs.")] = False,
) -> None:
    """Write a pipe's file from a query.

    Example: [bold]rookery pipe generate tenant_1_pipe "SELECT * FROM events WHERE tenant_id = 1"[/]
    """
    if folder not in FOLDERS:
        raise RookeryError(BAD_NAME, f"a project has no folder {folder}", hint=", ".join(FOLDERS))
    existing = _by_name(name)
    path = existing or options.project / folder / f"{name}.yaml"
    if not sql.strip():
        raise RookeryError(USAGE, "the query is empty", hint='such as rookery pipe generate one "SELECT 1 AS one"')
    try:
        pipe = Pipe(name=name, nodes=(Node(name=f"{name}_0", sql=sql),))
    except ValueError as exc:
        raise RookeryError(BAD_NAME, f"`{name}` cannot be the name of a pipe", hint="letters, digits and _") from exc
    text = render_pipe(pipe)
    if existing is not None and not force:
        present = parse_source(existing.read_text(encoding="utf-8"), str(existing), name)
        if not isinstance(present, Pipe) or present.nodes[0].sql.strip() != sql.strip():
            raise RookeryError(TARGET_EXISTS, f"{path} exists and differs", hint="--force writes over it")
        written = False
        if not options.json:
            output.say(f"{path} is there already")
    else:
        written = True
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        if not options.json:
            output.data(str(path))
    if options.json:
        output.as_json({"file": str(path), "written": written})


def materialize(
    pipe: Annotated[str, typer.Argument(help="Name or file of the pipe.")],
    target: Annotated[str, typer.Argument(help="Name of the datasource that it fills.")],
    node: Annotated[str | None, typer.Option("--node", help="Which node, by name or number.")] = None,
    per_tenant: Annotated[bool, typer.Option("--per-tenant", help="A target in every tenant's nest.")] = False,
) -> None:
    """Turn a pipe into one that fills a datasource: files are written, the view is made, history is delivered.

    Example: [bold]rookery materialize tenant_1_pipe tenant_1_ds[/]
    """
    name = Path(pipe).stem if pipe.endswith(".yaml") or "/" in pipe else pipe
    path = Path(pipe) if Path(pipe).is_file() else _by_name(name)
    bodies = _bodies(load(options.project)) if any((options.project / f).is_dir() for f in FOLDERS) else []
    if path is not None:
        listed = load_files(options.project, [path.resolve()])
        bodies = [*(b for b in bodies if b["name"] != name), *_bodies(listed)]
    with connect() as connection:
        given = {"files": bodies, "pipe": name, "target": target, "per_tenant": per_tenant}
        proposal = _proposal(connection, given, node, path)
        files = [
            {"name": target, **proposal["target"]},
            {"name": name, **proposal["pipe"]},
        ]
        body = {"files": bodies, "only": [target, name], "with_dependencies": True}
        body["files"] = [*(b for b in bodies if b["name"] not in {name, target}), *files]
        with (
            write_file(proposal, {"target": _by_name(target), "pipe": path}),
            output.progress("materialize") as update,
        ):
            result = connection.watched("/v0/push", body, update)
    if options.json:
        output.as_json({**result, "node": proposal["node"]})
        return
    output.plan(result)
    output.say(f"node {proposal['node']} fills {target}: {proposal['reason']}", "green")


def _proposal(connection: Connection, given: dict[str, Any], node: str | None, path: Path | None) -> Any:
    nodes = _nodes(given)
    chosen = _chosen(node, nodes)
    try:
        return connection.json("POST", "/v0/materialize", json={**given, "node": chosen})
    except RookeryError as exc:
        if exc.code is not AMBIGUOUS_NODE or node is not None:
            raise
        chosen = _chosen(_asked(nodes), nodes)
        if chosen is None:
            raise
        return connection.json("POST", "/v0/materialize", json={**given, "node": chosen})


def _nodes(given: dict[str, Any]) -> list[str]:
    source = next((f for f in given["files"] if f["name"] == given["pipe"]), None)
    if source is None:
        return []
    parsed = parse_source(source["text"], source["file"], source["name"])
    if not isinstance(parsed, Pipe):
        raise RookeryError(UNKNOWN_RESOURCE, f"`{given['pipe']}` is not a pipe")
    return [n.name for n in parsed.nodes]


def _chosen(answer: str | None, nodes: list[str]) -> str | None:
    """A node by number (from 1) or name; an answer may still carry the line end that `echo` spelled out."""
    if answer is None:
        return None
    text = answer.strip().removesuffix("\\n").strip()
    if text.isdecimal() and 1 <= int(text) <= len(nodes):
        return nodes[int(text) - 1]
    return text or None


def _asked(nodes: list[str]) -> str | None:
    """The answer to which node: from a person at a terminal, or one line of what was piped in."""
    for number, name in enumerate(nodes, 1):
        output.say(f"  {number}. {name}")
    if sys.stdin is not None and sys.stdin.isatty():
        return str(typer.prompt("Which node", default=str(len(nodes)), err=True))
    return sys.stdin.readline() or None if sys.stdin is not None else None


def _resource_commands(kind: str, group: typer.Typer) -> None:
    plural = f"{kind}s"
    columns = (
        ["name", "type", "materialized_datasource", "per_tenant"] if kind == "pipe" else ["name", "kind", "rows"]
    )

    def ls() -> None:
        with connect() as connection:
            found = connection.json("GET", f"/v0/{plural}")[plural]
        if options.json:
            output.as_json(found)
            return
        output.table([{**r, "rows": r.get("statistics", {}).get("row_count")} for r in found], columns)

    def show(name: Annotated[str, typer.Argument(help="Name or file.")]) -> None:
        with connect() as connection:
            found = connection.json("GET", f"/v0/{plural}/{_stem(name)}")
        if options.json:
            output.as_json(found)
        else:
            output.data(found["content"] or "")

    def rm(
        name: Annotated[str, typer.Argument(help="Name or file.")], force: Force = False, dry_run: DryRun = False
    ) -> None:
        with connect() as connection:
            flags = {"force": str(force).lower(), "dry_run": str(dry_run).lower()}
            gone = connection.json("DELETE", f"/v0/{plural}/{_stem(name)}", params=flags)
        if options.json:
            output.as_json(gone)
            return
        verb = "would remove" if dry_run else "removed"
        output.say(f"{verb} {', '.join(gone['removed'])}")

    group.command("ls", help=f"List the {plural} that are deployed. Example: [bold]rookery {kind} ls[/]")(ls)
    group.command("show", help=f"Show a {kind}'s source. Example: [bold]rookery {kind} show NAME[/]")(show)
    group.command("rm", help=f"Remove a {kind}: views before tables. Example: [bold]rookery {kind} rm NAME[/]")(rm)


def _stem(name: str) -> str:
    return Path(name).stem if name.endswith(".yaml") or "/" in name else name
