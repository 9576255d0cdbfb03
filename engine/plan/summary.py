"""What a plan does, for people: its steps by object, where the same change in several nests is one effect."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from engine.plan import steps
from engine.plan.steps import Loss, Plan, Step, with_rows
from engine.plurals import counted

Section = Literal["lost", "removed", "created", "changed"]
_KINDS: Mapping[type[Step], str] = {
    steps.CreateDatabase: "database",
    steps.DropDatabase: "database",
    steps.CreateTable: "table",
    steps.DropTable: "table",
    steps.ChangeClause: "table",
    steps.NoteFeeders: "table",
    steps.StoreValues: "column",
    steps.AddColumn: "column",
    steps.ChangeColumn: "column",
    steps.DropColumn: "column",
    steps.CreateView: "view",
    steps.DropView: "view",
}
"""The kind of the object that a step changes. Other steps belong to the creation of a table."""


@dataclass(frozen=True, slots=True)
class Effect:
    """What a plan does to one object, or to the objects of the same name in several nests."""

    section: Section
    kind: str
    """`database`, `table`, `column` or `view`."""
    name: str
    """Its name without the database; the name of a column with its table."""
    reason: str
    resource: str
    destructive: bool
    loss: Loss
    effect: str
    """As in `Step`."""
    rows: int
    nests: int
    """Number of nests; 0 for a shared object."""

    @property
    def text(self) -> str:
        """One line, such as `table daily in 3 nests: rebuilt: its query changed; drops and recomputes 84 rows`."""
        nests = counted(self.nests, "nest")
        if not self.name:
            return nests
        subject = f"{self.kind} {self.name}" + (f" in {nests}" if self.nests else "")
        # The section says that the object is new.
        reason = self.reason.removeprefix("does not exist").removeprefix("; ")
        why = "; ".join(text for text in (reason, with_rows(self.effect, self.rows)) if text)
        return f"{subject}: {why}" if why else subject

    def as_dict(self) -> dict[str, Any]:
        """An item of `effects` in the response of `POST /v0/push`."""
        return {
            "section": self.section,
            "text": self.text,
            "kind": self.kind,
            "name": self.name,
            "nests": self.nests,
            "reason": self.reason,
            "resource": self.resource,
            "destructive": self.destructive,
            "loss": self.loss,
            "cost": with_rows(self.effect, self.rows),
            "rows": self.rows,
        }


def effects(plan: Plan) -> list[Effect]:
    """The effects of a plan in the order of its steps."""
    return in_groups(_effects(plan.steps))


def in_groups(found: Iterable[Effect]) -> list[Effect]:
    """Effects that differ only in their nests and rows are added up. The text of the first one stays."""
    groups: dict[tuple[object, ...], Effect] = {}
    for one in found:
        key = (one.section, one.kind, one.name, one.nests > 0, one.reason, one.resource, one.destructive)
        first = groups.get(key)
        groups[key] = replace(first, rows=first.rows + one.rows, nests=first.nests + one.nests) if first else one
    return list(groups.values())


def _effects(all_steps: Iterable[Step]) -> Iterable[Effect]:
    listed = [s for s in all_steps if type(s) in _KINDS]
    dropped = {(_KINDS[type(s)], s.subject) for s in listed if isinstance(s, steps.DropTable | steps.DropView)}
    created = {(_KINDS[type(s)], s.subject) for s in listed if isinstance(s, steps.CreateTable | steps.CreateView)}
    for step in listed:
        object_ = (_KINDS[type(step)], step.subject)
        rebuilt = object_ in dropped and object_ in created
        # A rebuilt table is one effect: that of the step which drops it. Its views are created again with it.
        if not rebuilt:
            yield effect_of(step, _section(step))
        elif isinstance(step, steps.DropTable):
            yield effect_of(step, "lost" if step.loss == "lost" else "changed", "rebuilt: ")


def effect_of(step: Step, section: Section, prefix: str = "") -> Effect:
    """The effect of a single step."""
    is_database = isinstance(step, steps.CreateDatabase | steps.DropDatabase)
    name = step.subject if is_database else step.subject.partition(".")[2]
    return Effect(
        section,
        _KINDS[type(step)],
        # The databases of nests have different names, but are one effect.
        "" if is_database and step.tenant is not None else name,
        prefix + step.reason,
        step.resource if step.tenant is None or not is_database else "",
        step.destructive,
        step.loss,
        step.effect,
        step.rows,
        int(step.tenant is not None),
    )


def _section(step: Step) -> Section:
    if step.loss == "lost":
        return "lost"
    if isinstance(step, steps.DropTable | steps.DropColumn | steps.DropView | steps.DropDatabase):
        return "removed"
    replaced = isinstance(step, steps.CreateView) and step.replaces
    if (
        isinstance(step, steps.CreateTable | steps.CreateView | steps.CreateDatabase | steps.AddColumn)
        and not replaced
    ):
        return "created"
    return "changed"
