"""Composes the staging of arrays, maps and tuples from the staging of their parts."""

from __future__ import annotations

import re
from collections.abc import Sequence

from engine.ingest.values.staging_rules import Sql, WideType
from engine.schema import quote
from engine.warehouse.type_names import Type

_LAMBDA_PARAMETERS = re.compile(r"\b_rk_x(\d+)\b")


def composite(type: Type, parts: Sequence[WideType]) -> WideType:
    if type.kind == "Array":
        return _array(parts[0])
    return _map(*parts) if type.kind == "Map" else _tuple(type, parts)


def _array(element: WideType) -> WideType:
    return WideType(
        f"Array({element.staging_type})",
        _all(element.check),
        _map_over(element.convert),
        restage=_map_over(element.restage),
    )


def _map(key: WideType, value: WideType) -> WideType:
    sides = (("mapKeys", key), ("mapValues", value))
    checks = [(function, check) for function, side in sides if (check := _all(side.check))]

    def both(key: Sql | None, value: Sql | None) -> Sql | None:
        keys, values = (_map_over(side) or str for side in (key, value))
        if key is None and value is None:
            return None
        return lambda v: f"mapFromArrays({keys(f'mapKeys({v})')}, {values(f'mapValues({v})')})"

    return WideType(
        f"Map({key.staging_type}, {value.staging_type})",
        (lambda v: "(" + " AND ".join(check(f"{f}({v})") for f, check in checks) + ")") if checks else None,
        both(key.convert, value.convert),
        restage=both(key.restage, value.restage),
    )


def _tuple(type: Type, parts: Sequence[WideType]) -> WideType:
    names = [f"{quote(n)} " for n in type.names] or [""] * len(parts)
    checks = [(n, p.check) for n, p in enumerate(parts, 1) if p.check]

    def each_part(functions: Sequence[Sql | None]) -> Sql | None:
        if not any(functions):
            return None
        applied = list(enumerate((f or str for f in functions), 1))
        return lambda v: f"tuple({', '.join(f(f'tupleElement({v}, {n})') for n, f in applied)})"

    return WideType(
        f"Tuple({', '.join(n + p.staging_type for n, p in zip(names, parts, strict=True))})",
        (lambda v: "(" + " AND ".join(c(f"tupleElement({v}, {n})") for n, c in checks) + ")") if checks else None,
        each_part([p.convert for p in parts]),
        any(p.has_invalid_default for p in parts),
        each_part([p.restage for p in parts]),
    )


def _all(check: Sql | None) -> Sql | None:
    return None if check is None else lambda v: each("arrayAll", check, v)


def _map_over(convert: Sql | None) -> Sql | None:
    return None if convert is None else lambda v: each("arrayMap", convert, v)


def each(function: str, inner: Sql, v: str) -> str:
    """Return the SQL of a function over the elements of an array. Nested lambdas get different parameter names."""
    name = f"_rk_x{max((int(n) + 1 for n in _LAMBDA_PARAMETERS.findall(v)), default=0)}"
    return f"{function}({name} -> {inner(name)}, {v})"
