"""Which files a push deploys: reads them from a request, selects some, and merges them over the deployed ones."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from engine.compiler.compose import Verifier
from engine.compiler.pipes import compile_pipe
from engine.errors import (
    BAD_VALUE,
    DUPLICATE_NAME,
    UNKNOWN_RESOURCE,
    RookeryError,
    did_you_mean,
    shown,
)
from engine.project.files import EXTENSION
from engine.project.model import Project
from engine.workspace.snapshot import DeployedFile, Snapshot, parse_sources


def files_of(bodies: Iterable[Mapping[str, Any]]) -> dict[str, DeployedFile]:
    """Files by resource name, from objects `{name, file, text}`.

    Raises RK1005 for an object with other keys or with the name of another file, and RK1007 for a repeated name.
    """
    files: dict[str, DeployedFile] = {}
    for body in bodies:
        values: Sequence[Any] = [body.get(k) for k in ("name", "file", "text")]
        if not all(isinstance(v, str) for v in values):
            raise RookeryError(BAD_VALUE, "each file must be an object with the keys name, file and text")
        name, path, text = values
        # A file that is written to this path and pushed again must declare the same resource.
        if path.rpartition("/")[2] != f"{name}{EXTENSION}":
            message = f"the file {shown(path)} cannot declare {shown(name)}"
            hint = "the name of a resource is that of its file, without .yaml"
            raise RookeryError(BAD_VALUE, message, hint=hint)
        if name in files:
            message = f"`{name}` is declared twice: in {files[name].file} and in {path}"
            raise RookeryError(DUPLICATE_NAME, message, hint="rename one of them")
        files[name] = DeployedFile(text, path)
    return files


def merge(
    snapshot: Snapshot,
    files: Mapping[str, DeployedFile],
    *,
    only: Collection[str] = (),
    with_dependencies: bool = False,
    prune: bool = False,
) -> dict[str, DeployedFile]:
    """The files that will be deployed: the selected ones over the deployed ones.

    `only` selects by resource name (everything when empty), and `with_dependencies` adds what those resources need.
    A deployed file that is absent from `files` stays deployed, unless `prune` is set and everything is selected.
    Raises RK3007 for a name in `only` that no file declares.
    """
    selected = dict(files)
    if only:
        wanted = set(only)
        unknown = wanted - set(files)
        if unknown:
            raise RookeryError(
                UNKNOWN_RESOURCE, f"no file declares `{min(unknown)}`", hint=did_you_mean(min(unknown), files)
            )
        if with_dependencies:
            project = parse_sources({**snapshot.sources, **files})
            wanted = upstream(project, wanted, snapshot.build.composer.verifier)
        selected = {n: f for n, f in files.items() if n in wanted}
    # A selection does not concern resources outside it, so they are not removed.
    return selected if prune and not only else {**snapshot.sources, **selected}


def tolerated(snapshot: Snapshot, files: Mapping[str, DeployedFile]) -> frozenset[str]:
    """Deployed pipes that share tenants' rows without declaring it, and deployed datasources, that the push does not
    touch.

    They may have been deployed before a rule existed; they must not block a push of other files.
    """

    def unchanged(name: str) -> bool:
        before, after = snapshot.sources.get(name), files.get(name)
        return (before and before.text) == (after and after.text)

    shares = {u.pipe for u in snapshot.build.undeclared if unchanged(u.pipe) and unchanged(u.target)}
    return frozenset(shares | {name for name in snapshot.build.datasources if unchanged(name)})


def upstream(project: Project, wanted: set[str], verifier: Verifier) -> set[str]:
    """The wanted names and everything upstream: what they read, and the pipes that fill the datasources they read."""
    names = frozenset(project.datasources) | frozenset(project.pipes)
    columns = frozenset(c.name for d in project.datasources.values() for c in d.columns)
    feeders: dict[str, set[str]] = {}
    for name, pipe in project.pipes.items():
        if pipe.materialize:
            feeders.setdefault(pipe.materialize.target, set()).add(name)
    reached: set[str] = set()
    pending = list(wanted)
    while pending:
        name = pending.pop()
        if name in reached:
            continue
        reached.add(name)
        pending.extend(feeders.get(name, ()))
        if name in project.pipes:
            compiled = compile_pipe(project.pipes[name], names, columns, verifier)
            pending.extend(compiled.reads | ({compiled.target.name} if compiled.target else set()))
    return reached
