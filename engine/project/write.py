"""From values to files: text that is pleasant to read and reads back as the same value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from engine.errors import UNKNOWN_KIND, Collector, RookeryError
from engine.project.located_model import Located
from engine.project.model import Datasource, Engine, Materialize, Pipe, Resource, Tenant
from engine.project.parse import parse_source
from engine.project.source import Value, YamlMapping, YamlSource, YamlText, read

_ON_ONE_LINE = 100


def render_datasource(datasource: Datasource) -> str:
    """The text of a datasource's file."""
    return _file(datasource)


def render_pipe(pipe: Pipe) -> str:
    """The text of a pipe's file."""
    return _file(pipe)


def update_pipe(text: str, name: str, materialize: Materialize, file: str | None = None) -> str:
    """The text of a pipe's file with its result going into a datasource instead of an endpoint.

    `type`, `endpoint` and `tokens` of the endpoint are removed, `materialize` is added or replaced; everything else
    stays as the author wrote it, comments included.
    Raises Problems for a text that cannot be read, UNKNOWN_KIND for that of a datasource.
    """
    pipe = parse_source(text, file, name)
    if not isinstance(pipe, Pipe):
        message, hint = f"`{name}` is a datasource", "only a pipe can fill a datasource"
        raise RookeryError(UNKNOWN_KIND, message, hint=hint, place=pipe.place)
    wanted = pipe.model_copy(update={"type": None, "endpoint": None, "tokens": (), "materialize": materialize})
    edited = _edited(text, materialize)
    # Lines cannot be exchanged in every layout of YAML; what does not read back as wanted is written anew.
    return edited if _reads_as(edited, name, wanted) else render_pipe(wanted)


def _reads_as(text: str, name: str, wanted: Resource) -> bool:
    try:
        return parse_source(text, None, name) == wanted
    except RookeryError:
        return False


def _edited(text: str, materialize: Materialize) -> str:
    tree = read(YamlSource(None, text), Collector())
    lines = text.splitlines(keepends=True)
    if not isinstance(tree, YamlMapping):
        return text
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    block = _dump({"materialize": _plain(materialize)})
    at = len(lines)
    for key in sorted(tree, key=lambda k: tree.key_locations[k].line, reverse=True):
        if key in ("type", "endpoint", "tokens", "materialize"):
            first, last = tree.key_locations[key].line - 1, _last_line(tree[key])
            del lines[first:last]
            at = first if key == "materialize" else at - (last - first)
    if at == len(lines) and lines and lines[-1].strip():
        block = "\n" + block
    lines.insert(at, block.replace("\n", "\r\n") if "\r\n" in text else block)
    return "".join(lines)


def _last_line(value: Value) -> int:
    """The last line of a value, without the comments and empty lines behind it."""
    if isinstance(value, YamlText):
        last = value.end.line - (1 if value.end.column == 1 else 0)
        return max(last, value.location.line)
    inner = list(value.values() if isinstance(value, YamlMapping) else value)
    return max([value.location.line, *(_last_line(x) for x in inner)])


def _file(resource: Resource) -> str:
    """Keys in the order of the model, with an empty line before long parts."""
    text = ""
    before = ""
    for part in (_dump({key: value}) for key, value in _plain(resource).items() if key != "name"):
        apart = before and max(before.count("\n"), part.count("\n")) > 1
        text += f"\n{part}" if apart else part
        before = part
    return text


def _plain(value: Located) -> dict[str, Any]:
    """The keys of a mapping as they are written: what is as by default is left out."""
    found: dict[str, Any] = {}
    for name, field in type(value).model_fields.items():
        content = getattr(value, name)
        if content == field.get_default(call_default_factory=True) and not field.is_required():
            continue
        found[field.alias or name] = _content(name, content)
    return found


def _content(name: str, content: Any) -> Any:
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
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20)):
        if content % factor == 0:
            return f"{content // factor}{unit}"
    return content


class _Sql(str):
    """A text that is put on lines of its own, however short it is."""


class _Writer(yaml.SafeDumper):
    """Blocks for texts of several lines, short mappings and lists of words on one line."""

    def ignore_aliases(self, data: object) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def analyze_scalar(self, scalar: str) -> Any:
        # White space at the end of a line is no obstacle to a block, although PyYAML takes it for one.
        analysis = super().analyze_scalar(scalar)
        analysis.allow_block = "\n" in scalar and not _is_odd(scalar)
        return analysis

    def determine_block_hints(self, text: str) -> str:
        # Behind a tab, a reader cannot tell how far the block is indented.
        hints = super().determine_block_hints(text)
        return f"{self.best_indent}{hints}" if text.startswith("\t") else hints

    def choose_scalar_style(self) -> str:
        style: str = super().choose_scalar_style()
        text = self.event.value if isinstance(self.event, yaml.ScalarEvent) else ""
        return '"' if style == "'" and "'" in text and not set(text) & {'"', "\\", "\n"} else style


def _is_odd(text: str) -> bool:
    """Whether a text can only be written with escapes."""
    return any(not (c.isprintable() or c in "\n\t\xa0") for c in text)


def _represent_text(writer: _Writer, text: str) -> yaml.ScalarNode:
    # A text of nothing but white space has no line by which a block's indentation could be told.
    # A block that keeps several line breaks at its end would take the blank line before the next key, too.
    quoted = _is_odd(text) or not text.strip() or text.endswith("\n\n")
    style = '"' if quoted else "|" if "\n" in text else None
    return writer.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _represent_sql(writer: _Writer, sql: _Sql) -> yaml.ScalarNode:
    # The line break at the end is for the reader; it is not part of the SQL that is read back.
    return _represent_text(writer, f"{sql}\n")


def _represent_mapping(writer: _Writer, mapping: Mapping[str, Any]) -> yaml.MappingNode:
    node = writer.represent_mapping("tag:yaml.org,2002:map", mapping.items())
    node.flow_style = _fits(mapping)
    return node


def _represent_list(writer: _Writer, items: list[Any]) -> yaml.SequenceNode:
    flow = all(isinstance(x, str) for x in items) and _fits(items)
    return writer.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=flow)


def _fits(content: Mapping[str, Any] | list[Any]) -> bool:
    """Whether a mapping or list is short enough for one line, and holds no SQL, which deserves lines of its own."""
    if isinstance(content, Mapping) and ("sql" in content or "target" in content):
        return False
    inner = list(content.values()) if isinstance(content, Mapping) else content
    simple = not any(isinstance(x, (Mapping, list)) or (isinstance(x, str) and "\n" in x) for x in inner)
    return simple and len(str(content)) <= _ON_ONE_LINE


_Writer.add_representer(str, _represent_text)
_Writer.add_representer(_Sql, _represent_sql)
_Writer.add_representer(dict, _represent_mapping)
_Writer.add_representer(list, _represent_list)


def _dump(content: dict[str, Any]) -> str:
    """One key of a file with its value."""
    key, value = next(iter(content.items()))
    inner = _Block({key: value})
    return yaml.dump(inner, Dumper=_Writer, sort_keys=False, allow_unicode=True, width=1_000_000)


class _Block(dict[str, Any]):
    """A mapping that is never put on one line."""


def _represent_block(writer: _Writer, mapping: _Block) -> yaml.MappingNode:
    return writer.represent_mapping("tag:yaml.org,2002:map", mapping.items(), flow_style=False)


_Writer.add_representer(_Block, _represent_block)
