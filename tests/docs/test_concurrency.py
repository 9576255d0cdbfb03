"""`docs/CONCURRENCY.md` names every lock of the engine, and only attributes that exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tests.docs.reading import ROOT

TEXT = (ROOT / "docs" / "CONCURRENCY.md").read_text(encoding="utf-8")
LOCKS = {"Lock", "RLock", "Condition"}
ARE_LOCKS = {"InsertLock", "StatementGate"}
"""Classes that are locks themselves. The page describes them by their own names."""


def _classes() -> Iterator[ast.ClassDef]:
    for path in sorted((ROOT / "engine").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        yield from (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))


def _locks(owner: ast.ClassDef) -> Iterator[str]:
    """Attributes of a class that are new locks. A condition over an existing lock is not a new one."""
    for node in ast.walk(owner):
        value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
        if not isinstance(value, ast.Call) or value.args:
            continue
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        called = value.func.attr if isinstance(value.func, ast.Attribute) else getattr(value.func, "id", "")
        if called in LOCKS and isinstance(target, ast.Attribute):
            yield f"{owner.name}.{target.attr}"


def test_every_lock_is_named() -> None:
    locks = {lock for owner in _classes() if owner.name not in ARE_LOCKS for lock in _locks(owner)}
    assert len(locks) > 15
    assert {lock for lock in locks if f"`{lock}`" not in TEXT} == set()


def test_every_named_attribute_exists() -> None:
    known: dict[str, set[str]] = {}
    for owner in _classes():
        attributes = known.setdefault(owner.name, set())
        attributes |= {n.attr for n in ast.walk(owner) if isinstance(n, ast.Attribute)}
        attributes |= {n.name for n in ast.walk(owner) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)}
        attributes |= {n.target.id for n in ast.walk(owner) if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)}  # fmt: skip
    named = re.findall(r"`([A-Z]\w+)\.(_?\w+)`", TEXT)
    assert named
    assert [f"{owner}.{attribute}" for owner, attribute in named if attribute not in known.get(owner, ())] == []
