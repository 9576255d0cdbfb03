"""A strict YAML reader that returns plain data with the position of every value.

Every scalar remains a string as it was written, including `on`, `no` and dates. Duplicate keys, aliases, anchors,
tags and further documents are refused, so that each value has exactly one position.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import yaml

from engine.errors import BAD_VALUE, BAD_YAML, DUPLICATE_KEY, Collector, Place, RookeryError

MAX_FILE_BYTES = 1024 * 1024
"""Largest project file, in bytes."""
MAX_YAML_DEPTH = 20
"""Deepest nesting of values in a file."""
MAX_VALUES = 100_000
"""Maximum number of values in a file, including keys."""
MAX_SHOWN_CHARACTERS = 80
"""Longest part of a key or value that a message quotes."""

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# Characters that YAML cannot contain unescaped, and line breaks that editors and YAML count differently.
_FORBIDDEN = re.compile(
    "[^\t\n\r\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]|\r(?!\n)"
)
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Location:
    """A position in a file's text. Lines and columns start at 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class YamlSource:
    """The text of a file."""

    file: str | None
    """The file's path as shown in messages."""
    text: str

    def place(self, location: Location) -> Place:
        return Place(self.file, location.line, location.column)

    def lines(self) -> list[str]:
        return [line.removesuffix("\r") for line in self.text.split("\n")]


class YamlText(str):
    """A scalar as written."""

    source: YamlSource
    location: Location
    """Where it begins, including its quotes or block header."""
    end: Location
    """Just after its last character."""
    style: str
    """Its YAML style: a quote, `|`, `>`, or empty for a plain scalar."""
    absent: bool
    """Whether the file has nothing where a value should be."""

    @classmethod
    def at(cls, text: str, source: YamlSource, location: Location) -> YamlText:
        """Create a value that the file does not contain, and assign it a location."""
        value = cls(text)
        value.source, value.location, value.end = source, location, location
        value.style, value.absent = "", False
        return value

    def position(self, line: int, column: int) -> Location:
        """The location in the file of a line and column of this scalar, both 1-based."""
        if self.style == "|":
            return Location(self.location.line + line, self._indent() + column)
        offset = sum(len(x) + 1 for x in self.split("\n")[: line - 1]) + column - 1
        before = "".join(self[: max(0, offset)].split())
        # Folding only changes white space, so counting the other characters finds the same position in the file.
        written = list(self._written())
        if not "".join(c for c, _ in written).startswith(before) or not written:
            return self.location
        if len(before) < len(written):
            return written[len(before)][1]
        last = written[-1][1]
        return Location(last.line, last.column + 1)

    def _indent(self) -> int:
        """How far the file indents the lines of this block scalar."""
        lines = self.source.lines()[self.location.line :]
        for written, line in zip(lines, self.split("\n"), strict=False):
            if line.strip():
                return len(written) - len(line)
        return 0

    def _written(self) -> Iterator[tuple[str, Location]]:
        """The characters of the scalar with their locations, except white space, quotes and the block header."""
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
    """A mapping in the file, with the locations of its keys."""

    source: YamlSource
    location: Location
    key_locations: dict[str, Location]
    """Where each key begins. The values have their own locations."""

    def like(self, content: dict[str, Value]) -> YamlMapping:
        """A mapping with other contents at the location of this one."""
        other = YamlMapping(content)
        other.source, other.location = self.source, self.location
        other.key_locations = {key: self.key_locations.get(key, self.location) for key in content}
        return other


Value: TypeAlias = YamlText | YamlList | YamlMapping


def read(source: YamlSource, problems: Collector) -> Value | None:
    """Read a file's single document and add its errors to `problems`. None if the file cannot be parsed."""
    unacceptable = _unacceptable_text(source)
    if unacceptable:
        problems.add(unacceptable)
        return None
    try:
        return _Reader(source, problems).document()
    except RookeryError as problem:
        problems.add(problem)
    except yaml.MarkedYAMLError as exc:
        problems.add(_malformed(source, exc))
    except (yaml.YAMLError, ValueError, OverflowError) as exc:
        escape = RookeryError(BAD_YAML, "the file contains an invalid escape sequence", place=_start(source))
        escape.__cause__ = exc
        problems.add(escape)
    return None


def _start(source: YamlSource) -> Place:
    return source.place(Location(1, 1))


def _unacceptable_text(source: YamlSource) -> RookeryError | None:
    """What is wrong with a file's text before it is parsed as YAML: its size, a byte order mark, or a forbidden
    character.
    """
    text = source.text
    if len(text) > MAX_FILE_BYTES:
        return RookeryError(BAD_YAML, "the file is larger than 1 MiB", place=_start(source))
    if text.startswith("\ufeff"):
        hint = "save it as UTF-8 without BOM"
        return RookeryError(BAD_YAML, "the file begins with a byte order mark", hint=hint, place=_start(source))
    match = _FORBIDDEN.search(text)
    if not match:
        return None
    line = text.count("\n", 0, match.start()) + 1
    location = Location(line, match.start() - text.rfind("\n", 0, match.start()))
    hint = 'write it as an escape in double quotes, such as "\\u2028"; end lines with \\n'
    message = f"character U+{ord(match[0]):04X} is not allowed in a file"
    return RookeryError(BAD_YAML, message, hint=hint, place=source.place(location))


def _stopped_at_tab(source: YamlSource, mark: yaml.Mark | None) -> bool:
    """Whether the parser stopped at a tab, which its message does not name."""
    lines = source.text.splitlines()
    if mark is None or mark.line >= len(lines):
        return False
    return lines[mark.line][mark.column : mark.column + 1] == "\t"


def _malformed(source: YamlSource, exc: yaml.MarkedYAMLError) -> RookeryError:
    """BAD_YAML for an error of the YAML parser, with a hint for frequent mistakes."""
    mark = exc.problem_mark or exc.context_mark
    place = source.place(Location(mark.line + 1, mark.column + 1)) if mark else _start(source)
    reason = exc.problem or exc.context or "it cannot be parsed"
    hint = None
    # The parser does not name the tab at which it stopped.
    if "\\t" in reason or "tab" in reason or _stopped_at_tab(source, mark):
        hint = "indent with spaces, not tabs"
    elif "mapping values" in reason:
        hint = "quote a value that contains a colon, or write it as a block after |"
    elif "did not find expected" in reason and ("key" in reason or "indicator" in reason):
        hint = "check the indentation: keys of one mapping, and items of one list, begin in the same column"
    problem = RookeryError(BAD_YAML, f"not valid YAML: {reason}", hint=hint, place=place)
    problem.__cause__ = exc
    return problem


class _Reader:
    """Builds the values of a document from the parser's events."""

    def __init__(self, source: YamlSource, problems: Collector) -> None:
        self.source = source
        self.problems = problems
        self.events: Iterator[yaml.Event] = iter(yaml.parse(source.text, Loader=_LOADER))
        self.values = 0

    def document(self) -> Value | None:
        """Read the only document of the file; None, with a problem, if the file is empty."""
        next(self.events)  # the stream's start
        if isinstance(next(self.events), yaml.StreamEndEvent):
            self.problems.add(RookeryError(BAD_YAML, "the file is empty", place=_start(self.source)))
            return None
        value = self.value(next(self.events), 1)
        next(self.events)  # the document's end
        following = next(self.events)
        if not isinstance(following, yaml.StreamEndEvent):
            self.refuse(following, "a second document begins here, but a file can only contain one")
        return value

    def refuse(self, event: yaml.Event, message: str, hint: str | None = None) -> None:
        """Raise BAD_YAML at an event. Nothing after it is read."""
        raise RookeryError(BAD_YAML, message, hint=hint, place=self.source.place(_location(event.start_mark)))

    def value(self, event: yaml.Event, depth: int) -> Value:
        """Read one value of any kind. Refuses what project files do not use: anchors, aliases and tags."""
        self.values += 1
        if self.values > MAX_VALUES:
            self.refuse(event, f"the file contains more than {MAX_VALUES} values")
        if depth > MAX_YAML_DEPTH:
            self.refuse(event, f"values are nested more than {MAX_YAML_DEPTH} levels deep")
        # Aliases of aliases could expand a small file into billions of values.
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            self.refuse(event, "anchors and aliases are not supported", "write the value where it is used")
        if getattr(event, "tag", None):
            self.refuse(event, "tags such as !!str are not supported", "remove it: every value is read as text")
        if isinstance(event, yaml.ScalarEvent):
            return self.scalar(event)
        if isinstance(event, yaml.SequenceStartEvent):
            return self.items(event, depth)
        return self.keys(event, depth)

    def scalar(self, event: yaml.ScalarEvent) -> YamlText:
        """Read a scalar with its position."""
        if _SURROGATE.search(event.value):
            self.refuse(event, "the text contains half of a surrogate pair")
        text = YamlText(event.value)
        text.source, text.location, text.end = self.source, _location(event.start_mark), _location(event.end_mark)
        text.style = event.style or ""
        # `key:` has no value, but `key: ''` has an empty one.
        text.absent = not text.style and not text
        return text

    def items(self, start: yaml.Event, depth: int) -> YamlList:
        """Read a list."""
        result = YamlList()
        result.source, result.location = self.source, _location(start.start_mark)
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            item = self.value(event, depth + 1)
            self.require_value(item, "an item of the list")
            result.append(item)
        return result

    def keys(self, start: yaml.Event, depth: int) -> YamlMapping:
        """Read a mapping. If a key is repeated, the first value counts."""
        result = YamlMapping()
        result.source, result.location, result.key_locations = self.source, _location(start.start_mark), {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key = self.value(event, depth + 1)
            if not isinstance(key, YamlText):
                # YAML reads an unquoted {{…}} as a mapping whose key is a mapping.
                hint = "write a string that begins with {{ as a block after |" if isinstance(key, dict) else None
                self.refuse(event, "a key must be a string", hint)
                break
            value = self.value(next(self.events), depth + 1)
            self.require_value(value, f"`{shown(key)}`")
            if key in result:
                message = f"key `{shown(key)}` occurs twice"
                hint = f"it first occurs on line {result.key_locations[key].line}"
                self.problems.add(
                    RookeryError(DUPLICATE_KEY, message, hint=hint, place=self.source.place(key.location))
                )
                continue
            result[str(key)] = value
            result.key_locations[str(key)] = key.location
        return result

    def require_value(self, value: Value, subject: str) -> None:
        """Add a problem if nothing is written where the file needs a value."""
        if isinstance(value, YamlText) and value.absent:
            hint = "write a value or remove the key"
            if ")" in subject:
                # YAML has split an unquoted type such as Decimal(9, 2) at its comma.
                hint = 'a value with a comma needs quotes: type: "Decimal(9, 2)"'
            place = self.source.place(value.location)
            self.problems.add(RookeryError(BAD_VALUE, f"{subject} has no value", hint=hint, place=place))


def _location(mark: Any) -> Location:
    return Location(mark.line + 1, mark.column + 1)


def shown(text: str) -> str:
    """Shorten a string from a file and put it on one line, so that a message can quote it."""
    line = " ".join(text.split())
    line = "".join(c if c.isprintable() else "?" for c in line)
    return line if len(line) <= MAX_SHOWN_CHARACTERS else line[: MAX_SHOWN_CHARACTERS - 1] + "…"
