"""Template functions that convert a parameter to a type, such as `Int32(x, 5)`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from engine.errors import BAD_PARAMETER, TEMPLATE, RookeryError, shown
from engine.template.date_times import InvalidValueError
from engine.template.parameters import ParameterType, Value, parameter_type, require_member
from engine.template.values import Parameter, Rendering, TypedList, is_present, typed, unwrap

_INTEGERS = [f"{u}Int{bits}" for u in ("", "U") for bits in (8, 16, 32, 64, 128, 256)]
PLAIN_TYPES = ["String", *_INTEGERS, "Int", "Integer", "Float32", "Float64", "Float", "Boolean", "Bool", "Date"]
PLAIN_TYPES += ["DateTime", "UUID", "JSON"]


@dataclass(frozen=True, slots=True)
class _Options:
    """The keywords of a type function, such as `Int32(x, 5, enum=[1, 5])`."""

    default: Any = None
    description: Any = None
    required: Any = False
    format: Any = None
    example: Any = None
    enum: Any = None
    """The values that callers may choose from, or None."""
    defined: Any = True
    """False if the parameter may be absent; the function then returns it unchanged."""


def _convert(run: Rendering, target: ParameterType, x: Any, options: _Options) -> Any:
    """Convert a parameter or value to a type, or return its default. Adds a missing parameter to `run.missing`."""
    name = x.name if type(x) is Parameter else None
    default = options.default
    if is_present(x):
        return typed(target, _checked(run, target, name, unwrap(x), options.enum))
    if default is not None:
        if type(default) is Parameter:
            return _convert(run, target, default, _Options(enum=options.enum))
        return typed(target, _default(target, name, default))
    if not options.defined and not options.required:
        return x
    if name is None:
        raise RookeryError(TEMPLATE, f"cannot convert None to {target.type}")
    run.missing[name] = None
    # Rendering continues with a sample, so that all missing parameters are reported together.
    return typed(target, target.sample)


def _checked(run: Rendering, target: ParameterType, name: str | None, raw: Any, enum: Any) -> Value:
    """Return a valid value of the type. Raises BAD_PARAMETER for an invalid value from a caller; dry runs use the
    sample instead.
    """
    subject = f"parameter `{name}`" if name else "value"
    run.spend(raw)
    try:
        value = target.check(raw)
    except InvalidValueError as exc:
        if run.is_dry_run:
            return target.sample
        message = f"{subject} must be {target.type}, got {shown(raw)}"
        raise RookeryError(BAD_PARAMETER, message, hint=str(exc) or None) from None
    if enum is not None and not run.is_dry_run:
        _check_enum(run, target, name, value, enum)
    return value


def _check_enum(run: Rendering, target: ParameterType, name: str | None, value: Value, enum: Any) -> None:
    """Raise BAD_PARAMETER for a value that is not in the author's list. Each item of an array must be in the list."""
    is_list = isinstance(value, list)
    member_type = parameter_type(target.type[len("Array(") : -1], run.zone) if is_list else target
    allowed = [_default(member_type, name, unwrap(e)) for e in enum]
    require_member(f"parameter `{name}`" if name else "value", value, allowed)


def _default(target: ParameterType, name: str | None, raw: Any) -> Value:
    """Convert a default or an enum value. Raises TEMPLATE, since the author wrote it."""
    value = list(raw) if isinstance(raw, TypedList) else raw
    try:
        return target.check(value)
    except InvalidValueError as exc:
        with suppress(InvalidValueError):
            # The local time does not exist in the workspace's zone: bind what the author wrote, and leave it to the
            # engine.
            return parameter_type(target.type).check(value)
        message = f"default or enum of parameter `{name}` must be {target.type}, got {shown(raw)}"
        raise RookeryError(TEMPLATE, message, hint=str(exc) or None) from None


def _type_function(type: str) -> Callable[..., Any]:
    """Return the template function for a type without arguments."""
    parameter_type(type)

    # `syntax` checks calls against this signature, so that each keyword is spelled out.
    def convert(
        run: Rendering,
        x: Any,
        default: Any = None,
        description: Any = None,
        required: Any = False,
        format: Any = None,
        example: Any = None,
        enum: Any = None,
        defined: Any = True,
    ) -> Any:
        options = _Options(default, required=required, enum=enum, defined=defined)
        return _convert(run, parameter_type(type, run.zone), x, options)

    return convert


def item_type(text: Any) -> Any:
    """Return the type of an array's items. A string that cannot be the name of a type, such as a list of values,
    means String.
    """
    return "String" if isinstance(text, str) and not text[:1].isupper() else text


def _array(run: Rendering, x: Any, type: str = "String", default: Any = None, **options: Any) -> Any:
    return _convert(run, parameter_type(f"Array({item_type(type)})", run.zone), x, _Options(default, **options))


def _decimal(run: Rendering, x: Any, precision: int, scale: int, default: Any = None, **options: Any) -> Any:
    return _convert(run, parameter_type(f"Decimal({precision}, {scale})"), x, _Options(default, **options))


def _datetime64(run: Rendering, x: Any, default: Any = None, precision: int = 6, **options: Any) -> Any:
    return _convert(run, parameter_type(f"DateTime64({precision})", run.zone), x, _Options(default, **options))


def _int(run: Rendering, x: Any) -> int:
    value = unwrap(x)
    name = x.name if type(x) is Parameter else None
    if isinstance(value, float):
        return int(value)
    return int(str(_checked(run, parameter_type("Int256"), name, value, None)))


def _float(run: Rendering, x: Any) -> float:
    name = x.name if type(x) is Parameter else None
    return float(str(_checked(run, parameter_type("Float64"), name, unwrap(x), None)))


CONVERSIONS: dict[str, Callable[..., Any]] = {
    **{name: _type_function(name) for name in PLAIN_TYPES},
    "Array": _array,
    "Decimal": _decimal,
    "DateTime64": _datetime64,
    "int": _int,
    "float": _float,
}
