"""A short way for batches whose values are as values usually are.

What may be wrong with a value takes long to ask, and an engine takes longer to read a long question than to answer
it for a thousand rows. So a batch is first stored by short conditions, which let pass less than what is good, and by
functions that throw: both let nothing pass that the long ones would not. Only a batch that fails is asked at length.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.ingest.values.wide_types import DATE_RANGES, FIRST_INFINITE, ZONE_PATTERN, Sql, bare
from engine.schema import literal
from engine.tenant_ids import MAX_TENANT_BYTES, integer_bounds
from engine.warehouse.type_names import Type

DATE_PATTERN = r"20\\d\\d-[01]\\d-[0-3]\\d"
# The engine is quick with patterns that have no alternatives, and takes no hour of none or four digits.
TIME_PATTERN = r"[T ](2[0-3])?([01]\\d)?:[0-5]\\d:[0-5]\\d([.]\\d+)?Z?"
MOST_DIGITS = 76


@dataclass(frozen=True, slots=True)
class FastChecks:
    """The condition that usual values meet (None: there is nothing to ask), and what is stored of them, or throws.

    `type` is that of what is `taken`, if it is always the same.
    """

    check: Sql | None
    taken: Sql | None
    type: str = ""


def fast_checks_of(type: Type, staged: str) -> FastChecks | None:
    """The short way for values of a type that are staged as another; None if there is none."""
    kind = type.kind
    if type.nullable or type.parts:
        return None
    if integer_bounds(kind) and staged == "Int128":
        return FastChecks(None, lambda v: f"accurateCast({v}, {literal(kind)})", kind)
    if staged == "Float64":
        limit = FIRST_INFINITE.get(kind)
        return FastChecks(lambda v: f"abs({v}) < {limit}" if limit else f"isFinite({v})", None)
    return _out_of_text(type) if staged == "String" else None


def _out_of_text(type: Type) -> FastChecks | None:
    kind, zone = type.kind, ZONE_PATTERN.search(type.text)
    if kind in DATE_RANGES:
        to = "toDate32" if kind == "Date32" else "toDate"
        return FastChecks(_written(DATE_PATTERN), lambda v: f"{to}(parseDateTimeBestEffort({v}, 'UTC'))", kind)
    if kind in ("DateTime", "DateTime64"):
        there = f", {literal(zone.group(1))}" if zone else ""
        scale, size = (f", {type.scale}", "64") if kind == "DateTime64" else ("", "")
        return FastChecks(
            _written(DATE_PATTERN + TIME_PATTERN),
            lambda v: f"parseDateTime{size}BestEffort({v}{scale}{there})",
            bare(type).text,
        )
    if kind == "UUID":
        return FastChecks(None, lambda v: f"toUUID({v})", kind)
    if kind == "Decimal" and type.precision > type.scale:
        return _exact_decimal(type)
    return None


def _written(pattern: str) -> Sql:
    """Days, of which the engine takes those of the 31 that their month has, and the day and the month 00 for 01."""
    return lambda v: f"match({v}, '^{pattern}$') AND {v} NOT LIKE '%-00%'"


def _exact_decimal(type: Type) -> FastChecks:
    fraction = f"([.][0-9]{{1,{type.scale}}})?" if type.scale else ""
    bits = next(
        bits for bits, digits in ((32, 9), (64, 18), (128, 38), (256, MOST_DIGITS)) if type.precision <= digits
    )
    return FastChecks(
        lambda v: f"match({v}, '^-?[0-9]{{1,{type.precision - type.scale}}}{fraction}$')",
        lambda v: f"toDecimal{bits}({v}, {type.scale})",
    )


def fast_tenant_check(kind: str, value: str) -> str | None:
    """The condition that usual ids of tenants meet, as they arrive; None if there is none."""
    bounds, text = integer_bounds(kind), f"ifNull({value}, '')"
    if bounds:
        return f"match({text}, '^[0-9]{{1,{len(str(bounds[1])) - 1}}}$') AND {text} NOT LIKE '0_%'"
    if kind == "String":
        return f"match({text}, '^[ -~]+$') AND length({text}) <= {MAX_TENANT_BYTES}"
    return None
