"""Every cache is bounded in bytes, not only in entries: a caller chooses the texts, and how long they are."""

from __future__ import annotations

import ast
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

from engine.cache import DEFAULT_MAX_BYTES, LruCache, size_of
from engine.compiler.compose import Verifier
from engine.warehouse.embedded import in_this_process

ROOT = Path(__file__).resolve().parents[1]

BY_ENTRIES = {
    "engine/workspace/snapshot.py": "names of deployed resources",
}
"""Caches without a weight → what bounds their entries."""
DECORATED = {
    "engine/compiler/encoding.py:without_dictionary": "declared types",
    "engine/ingest/unreadable_values.py:_positions": "headers of at most MAX_HEADER_BYTES",
    "engine/ingest/values/rejections.py:header_names": "headers of at most MAX_HEADER_BYTES",
    "engine/ingest/values/text_tenants.py:other_tenant_pattern": "declared paths",
    "engine/ingest/values/staging_mode.py:_non_text_pattern": "declared paths",
    "engine/machine_memory.py:machine_memory": "no arguments",
    "engine/sql/functions.py:sections": "no arguments",
    "engine/template/date_times.py:day_check": "the workspace's zone",
    "engine/template/date_times.py:moment_check": "the workspace's zone",
    "engine/template/parameters.py:parameter_type": "types in templates",
    "engine/warehouse/render.py:_formatted": "limits of settings and files, and ids of queries",
    "engine/web/documentation.py:sections": "no arguments",
    "engine/workspace/snapshot.py:_resource": "deployed files",
}
"""Functions whose results are kept → what bounds their arguments."""


def _modules() -> Iterator[tuple[str, ast.Module]]:
    for folder in ("engine", "cli"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield str(path.relative_to(ROOT)), ast.parse(path.read_text(encoding="utf-8"))


def _is_lru(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "LruCache"


def _made(tree: ast.Module) -> Iterator[ast.Call]:
    """The calls that make a cache, directly or by `partial` or a dataclass's `default_factory`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (
            _is_lru(node.func)
            or any(_is_lru(a) for a in node.args)
            or any(_is_lru(k.value) for k in node.keywords if k.arg == "default_factory")
        ):
            yield node


def test_every_cache_weighs_its_entries() -> None:
    made = [(file, call) for file, tree in _modules() for call in _made(tree)]
    assert len(made) > 10
    without = [file for file, call in made if not any(k.arg == "weigh" for k in call.keywords)]
    assert without == list(BY_ENTRIES)


def test_every_function_that_keeps_results_is_listed() -> None:
    cached = set()
    for file, tree in _modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                for decorator in node.decorator_list:
                    name = decorator.func if isinstance(decorator, ast.Call) else decorator
                    if isinstance(name, ast.Name) and name.id in ("cache", "lru_cache"):
                        cached.add(f"{file}:{node.name}")
    assert cached == set(DECORATED)


def test_long_texts_displace_others() -> None:
    cache: LruCache[str, str] = LruCache(100, weigh=size_of, max_bytes=10_000)
    for n in range(50):
        cache.put(f"{n}" * 500, f"{n}" * 500)
        assert cache.bytes <= 10_000
    assert 2 < len(cache) < 12
    assert "49" * 500 in cache
    cache.put("49" * 500, "short")
    assert cache.get("49" * 500) == "short"
    before = len(cache)
    assert cache.put("long", "x" * 3_000) == "x" * 3_000
    assert "long" not in cache
    assert len(cache) == before


def test_short_texts_are_bounded_by_number() -> None:
    cache: LruCache[int, int] = LruCache(3, weigh=size_of)
    for n in range(1, 9):
        cache.put(n, n)
    assert len(cache) == 3
    assert [n for n in range(1, 9) if n in cache] == [6, 7, 8]


def test_the_verifier_keeps_long_texts_within_its_bytes() -> None:
    verifier = Verifier(in_this_process())
    sums = ", ".join(f"number + {n}" for n in range(400))
    tracemalloc.start()
    for n in range(6):
        verifier(f"SELECT {n}, {sums} FROM numbers(1)", frozenset())
    kept, _ = tracemalloc.get_traced_memory()
    weighed = verifier._verified.bytes + verifier.parser._parsed.bytes + verifier.parser._formatted.bytes
    tracemalloc.stop()
    assert len(verifier._verified) == 6
    assert 0.5 < weighed / kept < 2, "the weight is about the memory"
    assert verifier.parser._parsed.bytes <= DEFAULT_MAX_BYTES
