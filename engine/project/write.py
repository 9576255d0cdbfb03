"""Writes models as YAML that is easy to read and parses back to an equal value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from engine.errors import UNKNOWN_KIND, Collector, RookeryError
from engine.project.datasource import Datasource, Engine, Tenant
from engine.project.located_model import Located
from engine.project.model import Resource
from engine.project.parse import parse_source
from engine.project.pipe import Materialize, Pipe
from engine.project.source import Value, YamlMapping, YamlSource, YamlText, read

_MAX_FLOW_CHARACTERS = 100
"""Longest mapping or list that is written on one line, measured in Python's notation."""


def render_datasource(datasource: Datasource) -> str:
    """The text of a datasource's file."""
    return _file(datasource)


def render_pipe(pipe: Pipe) -> str:
    """The text of a pipe's file."""
    return _file(pipe)


def update_pipe(text: str, name: str, materialize: Materialize, file: str | None = None) -> str:
    """Edit the text of a pipe's file so that its result is stored in a datasource instead of published.

    `type`, `endpoint` and `tokens` are removed, and `materialize` is added or replaced. Everything else, including
    comments, remains as the author wrote it.
    Raises Problems if the text cannot be parsed, UNKNOWN_KIND if it declares a datasource.
    """
    pipe = parse_source(text, file, name)
    if not isinstance(pipe, Pipe):
        message, hint = f"`{name}` is a datasource, not a pipe", "only a pipe can fill a datasource"
        raise RookeryError(UNKNOWN_KIND, message, hint=hint, place=pipe.place)
    expected = pipe.model_copy(update={"type": None, "endpoint": None, "tokens": (), "materialize": materialize})
    edited = _edited(text, materialize)
    # Replacing lines does not work in every layout of YAML. If the edited text does not parse to the expected pipe,
    # the file is written from scratch.
    return edited if _parses_to(edited, name, expected) else render_pipe(expected)


def _parses_to(text: str, name: str, expected: Resource) -> bool:
    try:
        return parse_source(text, None, name) == expected
    except RookeryError:
        return False


def _edited(text: str, materialize: Materialize) -> str:
    """Replace whole lines: remove the keys of an endpoint and put the new `materialize` where the old one was."""
    tree = read(YamlSource(None, text), Collector())
    lines = text.splitlines(keepends=True)
    if not isinstance(tree, YamlMapping):
        return text
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    block = _dump({"materialize": _plain(materialize)})
    position = len(lines)
    # From the bottom up, so that line numbers of the keys above remain valid.
    for key in sorted(tree, key=lambda k: tree.key_locations[k].line, reverse=True):
        if key in ("type", "endpoint", "tokens", "materialize"):
            first, last = tree.key_locations[key].line - 1, _last_line(tree[key])
            del lines[first:last]
            position = first if key == "materialize" else position - (last - first)
    if position == len(lines) and lines and lines[-1].strip():
        block = "\n" + block
    lines.insert(position, block.replace("\n", "\r\n") if "\r\n" in text else block)
    return "".join(lines)


def _last_line(value: Value) -> int:
    """The last line of a value, without the comments and empty lines that follow it."""
    if isinstance(value, YamlText):
        last = value.end.line - (1 if value.end.column == 1 else 0)
        return max(last, value.location.line)
    inner = list(value.values() if isinstance(value, YamlMapping) else value)
    return max([value.location.line, *(_last_line(x) for x in inner)])


def _file(resource: Resource) -> str:
    """Write the keys in the order of the model, with an empty line around those that take several lines."""
    text = ""
    previous = ""
    for block in (_dump({key: value}) for key, value in _plain(resource).items() if key != "name"):
        separated = previous and max(previous.count("\n"), block.count("\n")) > 1
        text += f"\n{block}" if separated else block
        previous = block
    return text


def _plain(value: Located) -> dict[str, Any]:
    """The keys and values of a model as they are written; values that equal the default are omitted."""
    plain: dict[str, Any] = {}
    for name, field in type(value).model_fields.items():
        content = getattr(value, name)
        if content == field.get_default(call_default_factory=True) and not field.is_required():
            continue
        plain[field.alias or name] = _content(name, content)
    return plain


def _content(name: str, content: Any) -> Any:
    """A value of a model as it is written, in its short form where there is one."""
    # Only a number that parses back to the same text is written as a number.
    if name == "settings":
        return {key: int(text) if str(text).isdecimal() and text == str(int(text)) else text for key, text in content}
    if name == "sql":
        return _Sql(content)
    if name == "max_memory":
        return _size(content)
    if isinstance(content, float) and content.is_integer():
        return int(content)
    if isinstance(content, Engine):
        plain = _plain(content)
        return content.type if plain.keys() <= {"type"} else {"type": content.type, **plain}
    if isinstance(content, Tenant):
        plain = _plain(content)
        return content.column if len(plain) == 1 else plain
    if isinstance(content, Located):
        return _plain(content)
    if isinstance(content, tuple):
        return [_content("", item) for item in content]
    return content


def _size(content: int) -> int | str:
    """A number of bytes in the largest unit that divides it."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20)):
        if content % factor == 0:
            return f"{content // factor}{unit}"
    return content


class _Sql(str):
    """SQL, which is always written as a block, however short it is."""


class _Writer(yaml.SafeDumper):
    """Writes multi-line strings as blocks, and short mappings and lists on one line."""

    def ignore_aliases(self, data: object) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def analyze_scalar(self, scalar: str) -> Any:
        # PyYAML does not write a block if a line ends with white space, although YAML allows it.
        analysis = super().analyze_scalar(scalar)
        analysis.allow_block = "\n" in scalar and not _needs_escapes(scalar)
        return analysis

    def determine_block_hints(self, text: str) -> str:
        # If the first line begins with a tab, a parser cannot infer the indentation of the block.
        hints = super().determine_block_hints(text)
        return f"{self.best_indent}{hints}" if text.startswith("\t") else hints

    def choose_scalar_style(self) -> str:
        style: str = super().choose_scalar_style()
        text = self.event.value if isinstance(self.event, yaml.ScalarEvent) else ""
        return '"' if style == "'" and "'" in text and not set(text) & {'"', "\\", "\n"} else style


def _needs_escapes(text: str) -> bool:
    """Whether a string contains characters that YAML can only write as escapes."""
    return any(not (c.isprintable() or c in "\n\t\xa0") for c in text)


def _represent_text(writer: _Writer, text: str) -> yaml.ScalarNode:
    # A parser cannot infer the indentation of a block that consists of white space only. And a block that keeps
    # several line breaks at its end would also contain the empty line before the next key.
    quoted = _needs_escapes(text) or not text.strip() or text.endswith("\n\n")
    style = '"' if quoted else "|" if "\n" in text else None
    return writer.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _represent_sql(writer: _Writer, sql: _Sql) -> yaml.ScalarNode:
    # The line break at the end only makes it a block; it is stripped again when the file is parsed.
    return _represent_text(writer, f"{sql}\n")


def _represent_mapping(writer: _Writer, mapping: Mapping[str, Any]) -> yaml.MappingNode:
    node = writer.represent_mapping("tag:yaml.org,2002:map", mapping.items())
    node.flow_style = _fits(mapping)
    return node


def _represent_list(writer: _Writer, items: list[Any]) -> yaml.SequenceNode:
    """Write a list of short strings on one line, and other lists as blocks."""
    flow = all(isinstance(x, str) for x in items) and _fits(items)
    return writer.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=flow)


def _fits(content: Mapping[str, Any] | list[Any]) -> bool:
    """Whether a mapping or list fits on one line. Those with SQL or a target are always written as blocks."""
    if isinstance(content, Mapping) and ("sql" in content or "target" in content):
        return False
    inner = list(content.values()) if isinstance(content, Mapping) else content
    simple = not any(isinstance(x, (Mapping, list)) or (isinstance(x, str) and "\n" in x) for x in inner)
    return simple and len(str(content)) <= _MAX_FLOW_CHARACTERS


_Writer.add_representer(str, _represent_text)
_Writer.add_representer(_Sql, _represent_sql)
_Writer.add_representer(dict, _represent_mapping)
_Writer.add_representer(list, _represent_list)


def _dump(content: dict[str, Any]) -> str:
    """Write a single top-level key with its value."""
    key, value = next(iter(content.items()))
    inner = _Block({key: value})
    return yaml.dump(inner, Dumper=_Writer, sort_keys=False, allow_unicode=True, width=1_000_000)


class _Block(dict[str, Any]):
    """A mapping that is never written on one line."""


def _represent_block(writer: _Writer, mapping: _Block) -> yaml.MappingNode:
    return writer.represent_mapping("tag:yaml.org,2002:map", mapping.items(), flow_style=False)


_Writer.add_representer(_Block, _represent_block)
