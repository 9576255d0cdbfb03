"""`docs/settings.md` describes every setting as the model does."""

from __future__ import annotations

from typing import Any

from pydantic import SecretStr

from engine.settings import PREFIX, Settings
from tests.docs.reading import ROOT, rows


def _shown(default: Any) -> str:
    """A default as the table writes it."""
    if isinstance(default, SecretStr):
        default = default.get_secret_value()
    if default is None or default in ("", ()):
        return "–"
    if isinstance(default, tuple):
        default = ",".join(default)
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def test_every_setting_is_documented() -> None:
    documented = rows((ROOT / "docs" / "settings.md").read_text(encoding="utf-8"), "Settings")
    expected = [
        [f"`{name}`", f"`{PREFIX}{name.upper()}`", _shown(field.default), field.description]
        for name, field in Settings.model_fields.items()
    ]
    assert documented == expected


def test_only_settings_reads_the_environment() -> None:
    readers = {
        file.relative_to(ROOT).as_posix()
        for part in ("engine", "cli")
        for file in (ROOT / part).rglob("*.py")
        if "os.environ" in (text := file.read_text(encoding="utf-8")) or "os.getenv" in text
    }
    assert readers <= {"engine/settings.py"}
