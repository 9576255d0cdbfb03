"""What all values that are read from a file have in common: they know where they stand."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, PrivateAttr, model_validator
from pydantic.json_schema import SkipJsonSchema

from engine.errors import Place
from engine.project.fields import ResourceName
from engine.project.source import YamlMapping, YamlText


class Located(BaseModel):
    """A mapping of a file."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    _keys: YamlMapping | None = PrivateAttr(default=None)

    @classmethod
    def long_form(cls, value: Any) -> Any:
        """The mapping that a short form stands for; anything else as it is."""
        return value

    @model_validator(mode="wrap")
    @classmethod
    def _keep_places(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        value = cls.long_form(value)
        written = handler(value)
        if isinstance(value, YamlMapping):
            written._keys = value
        return written

    @property
    def place(self) -> Place:
        """Where the mapping begins; an empty place for a value that was not read from a file."""
        return Place() if self._keys is None else self._keys.source.place(self._keys.location)

    def place_of(self, key: str) -> Place:
        """Where the value of a key stands; the mapping's own place when the key is not written."""
        if self._keys is None or key not in self._keys:
            return self.place
        return self._keys.source.place(self._keys[key].location)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__


class LocatedModel(Located):
    """A whole file. Its name is not written in it: it is that of the file."""

    name: SkipJsonSchema[ResourceName]

    @property
    def text(self) -> str:
        """The file's text; empty when the value was not read from a file."""
        return "" if self._keys is None else self._keys.source.text


def short_form(value: Any, key: str) -> Any:
    """A mapping of one key for a text; anything else as it is."""
    if isinstance(value, YamlText):
        found = YamlMapping({key: value})
        found.source, found.location, found.key_locations = value.source, value.location, {key: value.location}
        return found
    return {key: value} if isinstance(value, str) else value
