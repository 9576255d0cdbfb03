"""A project: the resources that its files declare, as frozen values that know their position in the file.

The models (`datasource`, `pipe`) validate the files, describe their keys for editors (`schema_json`), and are the
compiler's input. Two values are equal if their contents are equal, regardless of their positions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from engine.errors import DUPLICATE_NAME, Problems, RookeryError
from engine.project.datasource import Datasource
from engine.project.pipe import Pipe

Resource = Datasource | Pipe


@dataclass(frozen=True, slots=True)
class Project:
    """The resources of a workspace, by name."""

    datasources: Mapping[str, Datasource] = field(default_factory=dict)
    pipes: Mapping[str, Pipe] = field(default_factory=dict)

    @staticmethod
    def of(resources: Iterable[Resource]) -> Project:
        """Build a project from resources. Raises Problems (DUPLICATE_NAME) if two of them have the same name."""
        by_name: dict[str, Resource] = {}
        duplicates: list[RookeryError] = []
        for resource in resources:
            # Datasources and pipes share one namespace: SQL reads both by their name.
            other = by_name.setdefault(resource.name, resource)
            if other is not resource:
                message = f"there is another resource named `{resource.name}`"
                hint = f"rename this file or {other.place.file or 'the other'}"
                duplicates.append(RookeryError(DUPLICATE_NAME, message, hint=hint, place=resource.place))
        if duplicates:
            raise Problems(duplicates)
        return Project(
            # Sorted, so that a project does not depend on the order in which files were read.
            {n: r for n, r in sorted(by_name.items()) if isinstance(r, Datasource)},
            {n: r for n, r in sorted(by_name.items()) if isinstance(r, Pipe)},
        )

    def get(self, name: str) -> Resource | None:
        return self.datasources.get(name) or self.pipes.get(name)

    def resources(self) -> tuple[Resource, ...]:
        """Datasources, then pipes, each by name."""
        return (*self.datasources.values(), *self.pipes.values())

    def merged(self, other: Project) -> Project:
        """A project with the resources of both. Those of `other` replace resources of the same name."""
        kept = [r for r in self.resources() if other.get(r.name) is None]
        return Project.of((*kept, *other.resources()))
