"""The blocks of its source that a suspended view has not received, and the tenants concerned.

This is recorded while no insert runs, when the view is suspended or restricted to some tenants. When the view is
restored, exactly these blocks are delivered. Its target is not recomputed, because its source may have lost rows by
then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.schema import Name, View


@dataclass(frozen=True, slots=True)
class Gap:
    """Blocks that were not delivered: those of `batches`, and all with numbers greater than `after`."""

    tenant: str | None
    """None for all tenants without a gap of their own."""
    after: int | None
    """None if it is not known."""
    batches: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return {"tenant": self.tenant, "after": self.after, "batches": list(self.batches)}

    @staticmethod
    def of(body: Mapping[str, Any]) -> Gap:
        after = body["after"]
        return Gap(body["tenant"], None if after is None else int(after), tuple(body["batches"]))


@dataclass(frozen=True, slots=True)
class Missing:
    """The gaps of one view."""

    source: Name
    ids: tuple[str, str]
    """The UUIDs of source and target. In a new table of the same name, block numbers have a different meaning."""
    gaps: tuple[Gap, ...]

    def as_dict(self) -> dict[str, Any]:
        """The form in the registry, whose keys must not change."""
        return {
            "source": [self.source.database, self.source.name],
            "ids": list(self.ids),
            "gaps": [g.as_dict() for g in self.gaps],
        }

    @staticmethod
    def of(body: Mapping[str, Any] | None) -> Missing | None:
        """Read a record; None for one that an earlier version of rookery left empty."""
        if not body:
            return None
        source, target = body["ids"]
        return Missing(Name(*body["source"]), (str(source), str(target)), tuple(Gap.of(g) for g in body["gaps"]))

    def effective(self, excluded: tuple[str, ...] | None) -> tuple[Gap, ...]:
        """The gaps of a view that runs without the `excluded` tenants; with None, of a view that does not run.

        A tenant that a running view excludes has missed all blocks since the view was suspended, unless it has a gap
        of its own. All other tenants have received everything through the running view.
        """
        if excluded is None:
            return self.gaps
        own = {g.tenant: g for g in self.gaps}
        common = own.get(None)
        gaps = []
        for tenant in excluded:
            gap = own.get(tenant)
            if gap is None and common is not None:
                gap = Gap(tenant, common.after, common.batches)
            if gap is not None:
                gaps.append(gap)
        return tuple(gaps)


@dataclass(frozen=True, slots=True)
class MissedBlocks:
    """Blocks of a source that must be delivered by a view: those of `batches`, and all after `after`."""

    view: View
    """The suspended view itself, or a form of it for one tenant only or without some tenants."""
    after: int
    batches: tuple[str, ...] = ()
