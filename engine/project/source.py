"""YAML text as plain data that knows where every part of it stands.

A file is read strictly: every scalar stays the text that was written (`on`, `no` and dates included), a key may be
given once, and aliases, anchors, tags and further documents are refused, so that each value stands in one place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import yaml

from engine.errors import BAD_VALUE, BAD_YAML, DUPLICATE_KEY, Collector, Place, RookeryError

MAX_FILE_BYTES = 1024 * 1024
"""Largest file that is read, in bytes."""
MAX_YAML_DEPTH = 20
MAX_VALUES = 100_000
MAX_SHOWN_CHARACTERS = 80
"""How much of a key or value is repeated in a message."""

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# What YAML cannot carry unescaped, and the line breaks that editors and YAML count differently.
_FORBIDDEN = re.compile(
    "[^\t\n\r\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]|\r(?!\n)"
)
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Location:
    """A position in a text; 1-based."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class YamlSource:
    """A file's name as shown in messages, and its text."""

    file: str | None
    text: str

    def place(self, location: Location) -> Place:
        return Place(self.file, location.line, location.column)

    def lines(self) -> list[str]:
        return [line.removesuffix("\r") for line in self.text.split("\n")]


class YamlText(str):
    """A scalar as written. `absent` says that nothing was written at all."""

    source: YamlSource
    location: Location
    end: Location
    style: str
    absent: bool

    def position(self, line: int, column: int) -> Location:
        """Where the given line and column of this text (1-based) stand in the file."""
        if self.style == "|":
            return Location(self.location.line + line, self._indent() + column)
        offset = sum(len(x) + 1 for x in self.split("\n")[: line - 1]) + column - 1
        before = "".join(self[: max(0, offset)].split())
        # Folding changes white space only, so the same number of other characters stands before it in the file.
        written = list(self._written())
        if not "".join(c for c, _ in written).startswith(before) or not written:
            return self.location
        if len(before) < len(written):
            return written[len(before)][1]
        last = written[-1][1]
        return Location(last.line, last.column + 1)

    def _indent(self) -> int:
        lines = self.source.lines()[self.location.line :]
        for written, line in zip(lines, self.split("\n"), strict=False):
            if line.strip():
                return len(written) - len(line)
        return 0

    def _written(self) -> Iterator[tuple[str, Location]]:
        """The characters of the scalar in the file, without white space, quotes and the block's header."""
        folded = self.style == ">"
        quoted = self.style in ("'", '"')
        start = (
            Location(self.location.line + 1, 1)
            if folded
            else Location(self.location.line, self.location.column + int(quoted))
        )
        doubled = False
        for number, line in enumerate(self.source.lines()[start.line - 1 : self.end.line], start.line):
            first = start.column if number == start.line else 1
            last = self.end.column - 1 - int(quoted) if number == self.end.line else len(line)
            for column in range(first, last + 1):
                char = line[column - 1 : column]
                doubled = self.style == "'" and char == "'" and not doubled
                if char.strip() and not doubled:
                    yield char, Location(number, column)


class YamlList(list["Value"]):
    """A list as written."""

    source: YamlSource
    location: Location


class YamlMapping(dict[str, "Value"]):
    """A mapping as written; `key_locations` are the places of its keys."""

    source: YamlSource
    location: Location
    key_locations: dict[str, Location]

    def like(self, content: dict[str, Value]) -> YamlMapping:
        """Other content that stands where this mapping stands."""
        other = YamlMapping(content)
        other.source, other.location = self.source, self.location
        other.key_locations = {key: self.key_locations.get(key, self.location) for key in content}
        return other


Value: TypeAlias = YamlText | YamlList | YamlMapping


def read(source: YamlSource, problems: Collector) -> Value | None:
    """The one document of a text; what is wrong goes to `problems`. None when there is nothing to go on with."""
    refused = _unreadable(source)
    if refused:
        problems.add(refused)
        return None
    try:
        return _Reader(source, problems).document()
    except RookeryError as problem:
        problems.add(problem)
    except yaml.MarkedYAMLError as exc:
        problems.add(_malformed(source, exc))
    except (yaml.YAMLError, ValueError, OverflowError) as exc:
        refused = RookeryError(BAD_YAML, "the file holds an escape that is not a character", place=_start(source))
        refused.__cause__ = exc
        problems.add(refused)
    return None


def _start(source: YamlSource) -> Place:
    return source.place(Location(1, 1))


def _unreadable(source: YamlSource) -> RookeryError | None:
    """What is wrong with a text before it is YAML."""
    text = source.text
    if len(text) > MAX_FILE_BYTES:
        return RookeryError(BAD_YAML, "the file is larger than 1 MiB", place=_start(source))
    if text.startswith("\ufeff"):
        hint = "save it as UTF-8 without BOM"
        return RookeryError(BAD_YAML, "the file begins with a byte order mark", hint=hint, place=_start(source))
    found = _FORBIDDEN.search(text)
    if not found:
        return None
    line = text.count("\n", 0, found.start()) + 1
    location = Location(line, found.start() - text.rfind("\n", 0, found.start()))
    hint = 'write it as an escape in double quotes, such as "\\u2028"; end lines with \\n'
    message = f"character U+{ord(found[0]):04X} is not allowed in a file"
    return RookeryError(BAD_YAML, message, hint=hint, place=source.place(location))


def _malformed(source: YamlSource, exc: yaml.MarkedYAMLError) -> RookeryError:
    mark = exc.problem_mark or exc.context_mark
    place = source.place(Location(mark.line + 1, mark.column + 1)) if mark else _start(source)
    what = exc.problem or exc.context or "not understood"
    hint = None
    if "\\t" in what or "tab" in what:
        hint = "indent with spaces, not tabs"
    elif "mapping values" in what:
        hint = "quote a text that contains a colon, or write it as a block after |"
    problem = RookeryError(BAD_YAML, f"not valid YAML: {what}", hint=hint, place=place)
    problem.__cause__ = exc
    return problem


class _Reader:
    """Builds the values of one document from the parser's events."""

    def __init__(self, source: YamlSource, problems: Collector) -> None:
        self.source = source
        self.problems = problems
        self.events: Iterator[yaml.Event] = iter(yaml.parse(source.text, Loader=_LOADER))
        self.values = 0

    def document(self) -> Value | None:
        next(self.events)  # the stream's start
        if isinstance(next(self.events), yaml.StreamEndEvent):
            self.problems.add(RookeryError(BAD_YAML, "the file is empty", place=_start(self.source)))
            return None
        value = self.value(next(self.events), 1)
        next(self.events)  # the document's end
        following = next(self.events)
        if not isinstance(following, yaml.StreamEndEvent):
            self.refuse(following, "a file holds one document; a second one begins here")
        return value

    def refuse(self, event: yaml.Event, message: str, hint: str | None = None) -> None:
        raise RookeryError(BAD_YAML, message, hint=hint, place=self.source.place(_location(event.start_mark)))

    def value(self, event: yaml.Event, depth: int) -> Value:
        self.values += 1
        if self.values > MAX_VALUES:
            self.refuse(event, f"the file holds more than {MAX_VALUES} values")
        if depth > MAX_YAML_DEPTH:
            self.refuse(event, f"values are nested more than {MAX_YAML_DEPTH} deep")
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            self.refuse(event, "anchors and aliases are not supported", "write the value where it is used")
        if getattr(event, "tag", None):
            self.refuse(event, "tags such as !!str are not supported", "every value is the text that is written")
        if isinstance(event, yaml.ScalarEvent):
            return self.scalar(event)
        if isinstance(event, yaml.SequenceStartEvent):
            return self.items(event, depth)
        return self.keys(event, depth)

    def scalar(self, event: yaml.ScalarEvent) -> YamlText:
        if _SURROGATE.search(event.value):
            self.refuse(event, "the text holds half of a surrogate pair")
        text = YamlText(event.value)
        text.source, text.location, text.end = self.source, _location(event.start_mark), _location(event.end_mark)
        text.style = event.style or ""
        text.absent = not text.style and not text
        return text

    def items(self, start: yaml.Event, depth: int) -> YamlList:
        found = YamlList()
        found.source, found.location = self.source, _location(start.start_mark)
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            item = self.value(event, depth + 1)
            self.want(item, "an item of the list")
            found.append(item)
        return found

    def keys(self, start: yaml.Event, depth: int) -> YamlMapping:
        found = YamlMapping()
        found.source, found.location, found.key_locations = self.source, _location(start.start_mark), {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key = self.value(event, depth + 1)
            if not isinstance(key, YamlText):
                self.refuse(event, "a key must be text")
                break
            value = self.value(next(self.events), depth + 1)
            self.want(value, f"`{shown(key)}`")
            if key in found:
                message, hint = (
                    f"key `{shown(key)}` is given twice",
                    f"first given in line {found.key_locations[key].line}",
                )
                self.problems.add(
                    RookeryError(DUPLICATE_KEY, message, hint=hint, place=self.source.place(key.location))
                )
                continue
            found[str(key)] = value
            found.key_locations[str(key)] = key.location
        return found

    def want(self, value: Value, what: str) -> None:
        if isinstance(value, YamlText) and value.absent:
            hint = "give a value or remove the key"
            if ")" in what:
                hint = 'a value with a comma needs quotes: type: "Decimal(9, 2)"'
            place = self.source.place(value.location)
            self.problems.add(RookeryError(BAD_VALUE, f"{what} has no value", hint=hint, place=place))


def _location(mark: Any) -> Location:
    return Location(mark.line + 1, mark.column + 1)


def shown(text: str) -> str:
    """A text from a file, short and on one line, to be repeated in a message."""
    line = " ".join(text.split())
    line = "".join(c if c.isprintable() else "?" for c in line)
    return line if len(line) <= MAX_SHOWN_CHARACTERS else line[: MAX_SHOWN_CHARACTERS - 1] + "…"
