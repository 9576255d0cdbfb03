"""Print what a push would do or did: losses first, then what is created and changed, then a diff of the files."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from cli import output

_SECTIONS = {"lost": "Lost", "removed": "Removed", "created": "Created", "changed": "Changed"}
_SIGNS = {"lost": "!", "removed": "-", "created": "+", "changed": "~"}
_COLORS = {"lost": "bold red", "removed": "red", "created": "green", "changed": "yellow"}


def show(result: Mapping[str, Any], *, diff: bool = True) -> None:
    """Print a plan. `diff` also prints the changed lines of files."""
    counts = {}
    for section, heading in _SECTIONS.items():
        items = list(_items(result, section))
        if not items:
            continue
        counts[section] = sum(count for _, count in items)
        output.line((heading, _COLORS[section]))
        for text, _ in items:
            output.line((f"  {_SIGNS[section]} {text}", _COLORS[section] if section == "lost" else None))
        output.data("")
    for change in result["changes"] if diff else ():
        _show_diff(change.get("diff", ""))
    if counts:
        output.line((", ".join(f"{count:,} {section}" for section, count in counts.items()), "bold"))
    if result.get("needs_permission"):
        options = " ".join(f"--allow-destructive {name}" for name in result["needs_permission"])
        output.line((f"needs {options}", "bold red"))


def show_warnings(result: Mapping[str, Any], known: Collection[str] = ()) -> list[str]:
    """Print the warnings of a push that are not `known`. Returns the text of each warning."""
    texts = []
    for warning in result.get("warnings", []):
        place = f"{warning['place']}: " if warning.get("place") else ""
        text = f"warning: {place}{warning['code']} {warning['error']}"
        texts.append(text)
        if text in known:
            continue
        output.say(text, "yellow")
        if "hint" in warning:
            output.say(f"  hint: {warning['hint']}", "dim")
    return texts


def _items(result: Mapping[str, Any], section: str) -> Iterator[tuple[str, int]]:
    """The lines of a section, each with its number of objects."""
    for change in result["changes"]:
        if change["what"] == section:
            file = f" ({change['file']})" if change.get("file") else ""
            yield f"{change['kind']} {change['name']}{file}", 1
    for effect in result.get("effects", []):
        if effect["section"] == section:
            yield effect["text"], max(effect["nests"], 1)
    if section == "changed":
        for mode in result.get("fanout", []):
            yield f"fan-out of {mode['datasource']}: {mode['from']} → {mode['to']}", 1


def _show_diff(text: str) -> None:
    colors = {"+": "green", "-": "red", "@": "cyan"}
    lines = text.splitlines()
    for number, line in enumerate(lines):
        is_heading = number < 2 and line.startswith(("--- ", "+++ "))
        output.line((line, "bold" if is_heading else colors.get(line[:1])))
    if lines:
        output.data("")
