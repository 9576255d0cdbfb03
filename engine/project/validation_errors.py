"""Translates pydantic's validation errors into problems in plain English, each with its place in the file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from engine.errors import BAD_NAME, BAD_VALUE, MISSING_KEY, SORTING_KEY, UNKNOWN_KEY, Code, RookeryError, did_you_mean
from engine.project.located_model import Located, LocatedModel
from engine.project.source import Location, Value, YamlList, YamlMapping, YamlSource, YamlText, shown

_CODES: dict[str, Code] = {"bad_name": BAD_NAME, "sorting_key": SORTING_KEY}
_TYPE_NAMES = {
    "string_type": "a string",
    "tuple_type": "a list",
    "list_type": "a list",
    "model_type": "a mapping",
    "dict_type": "a mapping",
    "bool_type": "true or false",
    "int_type": "a whole number",
    "float_type": "a number",
}


def problems_of(
    kind: type[Located], tree: YamlMapping, source: YamlSource, exc: ValidationError
) -> Iterator[RookeryError]:
    """Translate the errors in a file. Errors that only follow from another reported problem are skipped."""
    for error in exc.errors(include_url=False):
        target = _value_at(tree, error["loc"])
        absent = isinstance(target, YamlText) and target.absent
        # Pydantic does not count invalid items, so it also reports a list that has only such items as too short.
        short = error["type"] == "too_short" and isinstance(target, YamlList) and len(target) > 0
        if absent or short:
            continue
        problem = _problem(kind, tree, source, error, target)
        problem.__cause__ = exc
        yield problem


def _problem(
    kind: type[Located], tree: YamlMapping, source: YamlSource, error: ErrorDetails, target: Value
) -> RookeryError:
    """Translate one of pydantic's errors. The place is that of the value, or of the mapping that lacks it."""
    loc = error["loc"]
    # The innermost key. Positions in lists are numbers.
    key = next((str(part) for part in reversed(loc) if isinstance(part, str)), "")
    place = source.place(target.location)
    if error["type"] == "extra_forbidden":
        return _unknown(kind, tree, source, loc)
    if error["type"] == "missing":
        parent = _value_at(tree, loc[:-1])
        return RookeryError(
            MISSING_KEY, f"key `{key}` is missing{_in_parent(loc)}", place=source.place(parent.location)
        )
    context = error.get("ctx", {})
    # Raised by `fields.fail`, which has its own message and hint.
    if "message" in context:
        code = _CODES.get(error["type"], BAD_VALUE)
        message = context["message"]
        text = message if message.startswith("`") else f"`{shown(key)}` {message}"
        return RookeryError(code, text, hint=context["hint"], place=place)
    if error["type"] == "literal_error":
        return _not_listed(kind, loc, key, target, source)
    if error["type"] == "too_short":
        return RookeryError(BAD_VALUE, f"`{shown(key)}` must not be empty", place=place)
    expected = _TYPE_NAMES.get(error["type"])
    fault = f"must be {expected}, not {_described(target)}" if expected else f"is not valid: {error['msg']}"
    item = "an item of " if loc and isinstance(loc[-1], int) else ""
    return RookeryError(BAD_VALUE, f"{item}`{shown(key)}` {fault}", place=place)


def unknown_key(key: str, known: list[str], source: YamlSource, location: Location) -> RookeryError:
    """UNKNOWN_KEY with the most similar known key as a hint, or all of them if none is similar."""
    hint = did_you_mean(key, known, "possible keys: " + ", ".join(known))
    return RookeryError(UNKNOWN_KEY, f"unknown key `{shown(key)}`", hint=hint, place=source.place(location))


def known_keys(kind: type[Located]) -> list[str]:
    """The keys that a mapping of this kind can have in a file."""
    keys = [field.alias or name for name, field in kind.model_fields.items()]
    if issubclass(kind, LocatedModel):
        keys.remove("name")
    return [*keys, "sql"] if "nodes" in keys else keys


def _unknown(kind: type[Located], tree: YamlMapping, source: YamlSource, loc: tuple[int | str, ...]) -> RookeryError:
    """UNKNOWN_KEY at the place of the key."""
    parent = _value_at(tree, loc[:-1])
    key = str(loc[-1])
    location = parent.key_locations.get(key, parent.location) if isinstance(parent, YamlMapping) else parent.location
    model = _model_at(kind, loc[:-1])
    return unknown_key(key, known_keys(model) if model else [], source, location)


def _not_listed(
    kind: type[Located], loc: tuple[int | str, ...], key: str, target: Value, source: YamlSource
) -> RookeryError:
    """BAD_VALUE for a word that is not one of the possible ones."""
    place = source.place(target.location)
    model = _model_at(kind, loc[:-1])
    allowed = [str(x) for x in _literals(model.model_fields[key].annotation)] if model else []
    if not isinstance(target, YamlText):
        return RookeryError(BAD_VALUE, f"`{key}` must be a string, not {_described(target)}", place=place)
    hint = did_you_mean(str(target), allowed)
    message = f"`{key}` must be one of {', '.join(allowed)}, not `{shown(target)}`"
    return RookeryError(BAD_VALUE, message, hint=hint, place=place)


def _literals(annotation: Any) -> Iterator[Any]:
    """The words of a Literal type, including one inside a union."""
    for part in get_args(annotation):
        if isinstance(part, str):
            yield part
        else:
            yield from _literals(part)


def _value_at(tree: Value, loc: tuple[int | str, ...]) -> Value:
    """The value at one of pydantic's locations, or the innermost existing value on the way to it."""
    value = tree
    for part in loc:
        child: Value | None = None
        if isinstance(value, YamlMapping) and isinstance(part, str):
            child = value.get(part)
        elif isinstance(value, YamlList) and isinstance(part, int) and part < len(value):
            child = value[part]
        if child is None:
            return value
        value = child
    return value


def _model_at(kind: type[Located], loc: tuple[int | str, ...]) -> type[Located] | None:
    """The model of the mapping at one of pydantic's locations."""
    model: type[Located] | None = kind
    for part in loc:
        if isinstance(part, str) and model is not None:
            # Locations have the keys of the file, which are the aliases.
            fields = {field.alias or name: field for name, field in model.model_fields.items()}
            model = next(_models(fields[part].annotation), None) if part in fields else None
    return model


def _models(annotation: Any) -> Iterator[type[Located]]:
    """The models in a type, including those inside a union or tuple."""
    if isinstance(annotation, type) and issubclass(annotation, Located):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


def _in_parent(loc: tuple[int | str, ...]) -> str:
    above = [str(part) for part in loc[:-1] if isinstance(part, str)]
    return f" in `{above[-1]}`" if above else ""


def _described(value: Value) -> str:
    if isinstance(value, YamlMapping):
        return "a mapping"
    return "a list" if isinstance(value, YamlList) else f"`{shown(value)}`"
