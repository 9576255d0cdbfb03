"""The fast checks, for batches whose values have the usual spellings.

The full rules of `wide_types` are long, and the engine takes longer to parse them than to apply them to a thousand
rows. So a batch is first tried with short conditions that accept a subset of the valid values, and with conversions
that throw. Both reject every value that the full rules reject. Only a batch that fails them is checked in full.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.ingest.values.moments import zone_of
from engine.ingest.values.staging_rules import ColumnRules, Sql
from engine.ingest.values.wide_types import DATE_RANGES, FIRST_INFINITE, MAX_DECIMAL_DIGITS, bare
from engine.schema import literal
from engine.tenant_ids import MAX_TENANT_BYTES, integer_bounds
from engine.warehouse.type_names import Type

DATE_PATTERN = r"20\\d\\d-[01]\\d-[0-3]\\d"
# The engine evaluates patterns without alternatives quickly. Its parser refuses an hour without digits or with four.
TIME_PATTERN = r"[T ](2[0-3])?([01]\\d)?:[0-5]\\d:[0-5]\\d([.]\\d+)?Z?"


@dataclass(frozen=True, slots=True)
class FastChecks:
    """The fast rules of a type."""

    check: Sql | None
    """The condition that usual values meet; None if no check is needed."""
    convert: Sql | None
    """The value that is stored, which may throw; None if it is that of the full rules."""
    type: str = ""
    """The type of the converted value, if it is always the same."""

    def rules_for(self, value: str, column_type: str, stored: str) -> ColumnRules:
        """Return the fast rules of a column whose full rules store `stored`."""
        check = self.check(value) if self.check else None
        if self.convert is None:
            return ColumnRules(check, stored)
        converted = self.convert(value)
        return ColumnRules(check, converted if self.type == column_type else f"CAST({converted} AS {column_type})")


def fast_checks_of(type: Type, staging_type: str) -> FastChecks | None:
    """Return the fast rules for values of a type that are staged as `staging_type`; None if there are none."""
    kind = type.kind
    if type.nullable or type.parts:
        return None
    if integer_bounds(kind) and staging_type == "Int128":
        return FastChecks(None, lambda v: f"accurateCast({v}, {literal(kind)})", kind)
    if staging_type == "Float64":
        limit = FIRST_INFINITE.get(kind)
        return FastChecks(lambda v: f"abs({v}) < {limit}" if limit else f"isFinite({v})", None)
    return _from_text(type) if staging_type == "String" else None


def _from_text(type: Type) -> FastChecks | None:
    kind = type.kind
    if kind in DATE_RANGES:
        to = "toDate32" if kind == "Date32" else "toDate"
        return FastChecks(_matches(DATE_PATTERN), lambda v: f"{to}(parseDateTimeBestEffort({v}, 'UTC'))", kind)
    if kind in ("DateTime", "DateTime64"):
        return _moment(type)
    if kind == "UUID":
        return FastChecks(None, lambda v: f"toUUID({v})", kind)
    if kind == "Decimal" and type.precision > type.scale:
        return _exact_decimal(type)
    return None


def _moment(type: Type) -> FastChecks:
    zone, may_skip = zone_of(type)
    scale, size = (f", {type.scale}", "64") if type.kind == "DateTime64" else ("", "")
    matches = _matches(DATE_PATTERN + TIME_PATTERN)

    def parsed(v: str, or_null: str = "") -> str:
        return f"parseDateTime{size}BestEffort{or_null}({v}{scale}{zone})"

    def check(v: str) -> str:
        # The engine moves a local time that does not exist.
        shown = f"substring(toString({parsed(v, 'OrNull')}), 12, 5)"
        return f"{matches(v)} AND ({v} LIKE '%Z' OR ifNull({shown} = substring({v}, 12, 5), 0))"

    return FastChecks(check if may_skip else matches, parsed, bare(type).text)


def _matches(pattern: str) -> Sql:
    """Return the check of strings that begin with a date.

    The engine's parser refuses a day that the month does not have, but reads day and month 00 as 01.
    """
    return lambda v: f"match({v}, '^{pattern}$') AND {v} NOT LIKE '%-00%'"


def _exact_decimal(type: Type) -> FastChecks:
    fraction = f"([.][0-9]{{1,{type.scale}}})?" if type.scale else ""
    sizes = ((32, 9), (64, 18), (128, 38), (256, MAX_DECIMAL_DIGITS))
    bits = next(bits for bits, digits in sizes if type.precision <= digits)
    return FastChecks(
        lambda v: f"match({v}, '^-?[0-9]{{1,{type.precision - type.scale}}}{fraction}$')",
        lambda v: f"toDecimal{bits}({v}, {type.scale})",
    )


def fast_tenant_check(kind: str, value: str) -> str | None:
    """Return the condition that usual tenant ids meet in the form in which they arrive; None if the type has none."""
    bounds, text = integer_bounds(kind), f"ifNull({value}, '')"
    if bounds:
        return f"match({text}, '^[0-9]{{1,{len(str(bounds[1])) - 1}}}$') AND {text} NOT LIKE '0_%'"
    if kind == "String":
        return f"match({text}, '^[ -~]+$') AND length({text}) <= {MAX_TENANT_BYTES}"
    return None
