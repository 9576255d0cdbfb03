"""Base classes of the models for project files: values that know their position in the file."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, PrivateAttr, model_validator
from pydantic.json_schema import SkipJsonSchema

from engine.errors import Place
from engine.project.fields import ResourceName
from engine.project.source import YamlMapping, YamlText


class Located(BaseModel):
    """A value that is written as a YAML mapping."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    _keys: YamlMapping | None = PrivateAttr(default=None)
    """The mapping with the positions of its keys; None for a value that was not read from a file."""

    @classmethod
    def long_form(cls, value: Any) -> Any:
        """Expand a short form, such as a plain name, to the full mapping; return anything else unchanged."""
        return value

    @model_validator(mode="wrap")
    @classmethod
    def _keep_places(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        value = cls.long_form(value)
        model = handler(value)
        # A value created by code has no position.
        if isinstance(value, YamlMapping):
            model._keys = value
        return model

    @property
    def place(self) -> Place:
        """Where the mapping begins; an empty place if the value was not read from a file."""
        return Place() if self._keys is None else self._keys.source.place(self._keys.location)

    def place_of(self, key: str) -> Place:
        """Where the value of a key begins; the mapping's own place if the key is absent."""
        if self._keys is None or key not in self._keys:
            return self.place
        return self._keys.source.place(self._keys[key].location)

    def __eq__(self, other: object) -> bool:
        # Private attributes are not in `__dict__`: the same content at another place is equal.
        return type(self) is type(other) and self.__dict__ == other.__dict__


class LocatedModel(Located):
    """The contents of a whole file. The resource's name is the file's name and is not written in the file."""

    name: SkipJsonSchema[ResourceName]

    @property
    def text(self) -> str:
        """The file's text; empty if the value was not read from a file."""
        return "" if self._keys is None else self._keys.source.text


def short_form(value: Any, key: str) -> Any:
    """Wrap a string in a mapping with this single key; return anything else unchanged."""
    if isinstance(value, YamlText):
        mapping = YamlMapping({key: value})
        mapping.source, mapping.location, mapping.key_locations = value.source, value.location, {key: value.location}
        return mapping
    return {key: value} if isinstance(value, str) else value
