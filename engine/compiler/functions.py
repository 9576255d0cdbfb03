"""The closed list of functions that author SQL may call, read from `functions.txt`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType

COMBINATORS = (
    "simplestate", "mergestate", "ordefault", "distinct", "resample", "foreach", "ornull", "argmin", "argmax",
    "array", "state", "merge", "map", "if",
)  # fmt: skip

SHORT_LIVED = 6
"""How many combinators a name may carry; more is nobody's query."""


@cache
def sections() -> Mapping[str, frozenset[str]]:
    """The lists of `functions.txt` by section, in lower case."""
    found: dict[str, set[str]] = {}
    section: set[str] = set()
    for line in files(__package__).joinpath("functions.txt").read_text(encoding="utf-8").splitlines():
        text = line.strip()
        if text.startswith("[") and text.endswith("]"):
            section = found.setdefault(text[1:-1], set())
        elif text and not text.startswith("#"):
            section.add(text.lower())
    return MappingProxyType({name: frozenset(names) for name, names in found.items()})


def is_aggregate(name: str) -> bool:
    """Whether a name is an aggregate function on the list, combinators included."""
    aggregates = sections()["aggregate"]
    candidates = {name.lower()}
    for _ in range(SHORT_LIVED):
        if candidates & aggregates:
            return True
        candidates = {c.removesuffix(s) for c in candidates for s in COMBINATORS if c.endswith(s)}
    return bool(candidates & aggregates)


def is_allowed(name: str) -> bool:
    """Whether author SQL may call a function of this name (any case)."""
    lists = sections()
    return name.lower() in lists["plain"] or name.lower() in lists["lambda"] or is_aggregate(name)


def takes_lambda(name: str) -> bool:
    """Whether the function takes lambdas, so that a bare name among its arguments may mean a function."""
    return name.lower() in sections()["lambda"]


def is_niladic(name: str) -> bool:
    """Whether the engine would call a refused function for this bare name where no column has it."""
    return name.lower() in sections()["niladic"]
