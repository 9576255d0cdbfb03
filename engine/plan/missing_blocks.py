"""What a suspended view has not received: which blocks of its source, and for which tenants.

It is recorded when the view is taken down or narrowed, with no insert running. When the view is put back, exactly
these blocks are delivered, so that its target keeps what its source may no longer have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.schema import Name, View


@dataclass(frozen=True, slots=True)
class Gap:
    """Blocks that have not been delivered: those of `batches`, and all whose number is greater than `after`.

    `tenant` is None for all tenants but those that have a gap of their own. `after` is None when it is not known.
    """

    tenant: str | None
    after: int | None
    batches: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return {"tenant": self.tenant, "after": self.after, "batches": list(self.batches)}

    @staticmethod
    def of(body: Mapping[str, Any]) -> Gap:
        after = body["after"]
        return Gap(body["tenant"], None if after is None else int(after), tuple(body["batches"]))


@dataclass(frozen=True, slots=True)
class Missing:
    """The gaps of one view. `ids` are the engine's ids of its source and its target: in another table of the same
    name, the numbers of blocks would mean something else."""

    source: Name
    ids: tuple[str, str]
    gaps: tuple[Gap, ...]

    def as_dict(self) -> dict[str, Any]:
        return {
            "source": [self.source.database, self.source.name],
            "ids": list(self.ids),
            "gaps": [g.as_dict() for g in self.gaps],
        }

    @staticmethod
    def of(body: Mapping[str, Any] | None) -> Missing | None:
        """What was recorded; None where an earlier version recorded nothing."""
        if not body:
            return None
        source, target = body["ids"]
        return Missing(Name(*body["source"]), (str(source), str(target)), tuple(Gap.of(g) for g in body["gaps"]))

    def effective(self, without: tuple[str, ...] | None) -> tuple[Gap, ...]:
        """The gaps of a view that is down (None), or that runs without some tenants.

        A tenant that a running view leaves out is behind from where the view was taken down, unless it has a gap of
        its own; other tenants have received everything through that view.
        """
        if without is None:
            return self.gaps
        own = {g.tenant: g for g in self.gaps}
        common = own.get(None)
        found = []
        for tenant in without:
            gap = own.get(tenant)
            if gap is None and common is not None:
                gap = Gap(tenant, common.after, common.batches)
            if gap is not None:
                found.append(gap)
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Lack:
    """Blocks of a source to be delivered by one form of a view: for everybody, for one tenant, or without some."""

    view: View
    after: int
    batches: tuple[str, ...] = ()
