"""Checks what is deployed: files that newer rules refuse, tenants in intermediate states, and objects without an
owner.

The last group runs only while no change is running, because changes pass through these states.
"""

from __future__ import annotations

from collections.abc import Iterator

from engine.control.doctor.findings import Context, Finding, error, warning
from engine.control.erasure import ERASURE_KIND
from engine.errors import POOLED_ONLY
from engine.project.check import check


def deployed_files(context: Context) -> Iterator[Finding]:
    """Deployed files comply with the current rules. Older files work as before, but the next push of them is
    refused.
    """
    for problem in check(context.snapshot.build.project):
        place = str(problem.place or context.workspace.name)
        yield error("deployed-files", place, f"{problem.code.id}: {problem.message}", problem.hint)


def undeclared_shares(context: Context) -> Iterator[Finding]:
    """No pipe shares tenants' rows without a declaration. Such pipes were deployed before rookery refused them."""
    for undeclared in context.snapshot.build.undeclared:
        problem = undeclared.problem
        yield error("undeclared-share", undeclared.target, f"{problem.code.id}: {problem.message}", problem.hint)


def pooled_only(context: Context) -> Iterator[Finding]:
    """No ordinary pipe reads a per-tenant target while some tenants' rows are in nests, which the pipe does not
    read.
    """
    count = sum(t.placement == "tables" for t in context.snapshot.tenants.values())
    for problem in context.snapshot.build.warnings if count else ():
        if problem.code is POOLED_ONLY:
            why = f"{problem.message}; tenants with tables: {count}"
            yield error("pooled-only", context.workspace.name, why, problem.hint)


def orphans(context: Context) -> Iterator[Finding]:
    """Every object of the workspace is declared by a file or needed by a tenant."""
    # What an interrupted change to a tenant left is part of the finding `unfinished-tenant`.
    nests = _nests(context, "ready")
    live, desired = context.live, context.desired
    state = {n for n, t in live.tables.items() if t.mark is not None and t.mark.kind == "state"}
    for name in sorted({*live.tables, *live.views} - {*desired.tables, *desired.views} - state):
        if name.database == context.workspace.name or name.database in nests:
            kind = "view" if name in live.views else "table"
            yield warning("orphan", name, f"no file declares this {kind}", "rookery plan --prune shows it")


def unknown_nests(context: Context) -> Iterator[Finding]:
    """Every nest belongs to a tenant that exists."""
    marked = [(t.name.database, t.mark) for t in context.live.tables.values()]
    marked += [(v.name.database, v.mark) for v in context.live.views.values()]
    tenants = {database: mark.tenant for database, mark in marked if mark is not None and mark.tenant is not None}
    known = {*_nests(context), context.workspace.name}
    for database in sorted({*context.live.databases, *tenants} - known):
        tenant = tenants.get(database)
        why = f"the nest of tenant {tenant}, which does not exist" if tenant else "an empty nest without a tenant"
        yield warning("unknown-nest", database, why, "rookery plan --prune shows what would be dropped")


def _nests(context: Context, state: str | None = None) -> set[str]:
    """The databases of existing tenants' nests, or only of tenants in one state."""
    tenants = context.snapshot.tenants.values()
    nests = {t.nest(context.workspace.name) for t in tenants if state in (None, t.state)}
    return {nest for nest in nests if nest is not None}


def unfinished_tenants(context: Context) -> Iterator[Finding]:
    """No addition, removal or erasure of a tenant was interrupted."""
    erasing = context.workspace.registry.read(ERASURE_KIND)
    for tenant in sorted(context.snapshot.tenants.values(), key=lambda t: t.id):
        if tenant.state != "ready" and tenant.id not in erasing:
            verb = "rm" if tenant.state == "removing" else "add"
            why = f"it is still {tenant.state}, since {tenant.created_at}, and no command is working on it"
            yield error("unfinished-tenant", f"tenant {tenant.id}", why, f"rookery tenant {verb} {tenant.id}")
    for name in sorted(erasing):
        why = "erasing its rows was interrupted, and some of them may still be stored"
        yield error("unfinished-tenant", f"tenant {name}", why, f"rookery tenant rm {name} --purge")
