"""The configurations of the page on production agree with the product, as far as that can be checked without running them."""

from __future__ import annotations

import configparser
import re
import subprocess
from pathlib import Path

import pytest

from engine import errors
from engine.settings import Settings
from tests.cli.billing import FILES
from tests.cli.commands import Cli

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "production.md").read_text(encoding="utf-8")


def block(language: str, containing: str = "") -> str:
    """The page's block of code in a language."""
    blocks: list[str] = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    (text,) = [b for b in blocks if containing in b]
    return text


def test_every_variable_is_a_setting_or_of_the_compose_file() -> None:
    names = {f"ROOKERY_{name.upper()}" for name in Settings.model_fields}
    assert set(re.findall(r"ROOKERY_[A-Z_0-9]+", PAGE)) <= names | {"ROOKERY_MEMORY"}


def test_every_code_is_an_error() -> None:
    codes = {v.id for v in vars(errors).values() if isinstance(v, errors.Code)}
    assert set(re.findall(r"\bRK\d{4}\b", PAGE)) <= codes


def test_the_service_unit_is_complete() -> None:
    unit = configparser.RawConfigParser(strict=True)
    unit.optionxform = str  # type: ignore[assignment]
    unit.read_string(block("ini"))
    assert unit.sections() == ["Unit", "Service", "Install"]
    service = unit["Service"]
    assert float(service["TimeoutStopSec"]) > Settings.model_fields["stop_seconds"].default
    assert service["ExecStart"].endswith("/rookery serve")
    # The only writable directory of the hardened unit is the one with the data.
    assert service["ProtectSystem"] == "strict"
    data = re.search(r"^ROOKERY_DATA=(.*)$", block("text", "ROOKERY_DATA"), re.MULTILINE)
    assert data and data[1].startswith(f"/var/lib/{service['StateDirectory']}/")


@pytest.mark.parametrize("language", ["caddyfile", "nginx"])
def test_proxies_pass_streams_and_hide_tokens(language: str) -> None:
    text = block(language)
    assert text.count("{") == text.count("}")
    port = Settings.model_fields["port"].default
    assert f"127.0.0.1:{port}" in text
    for path in ("metrics", "ready", "live"):
        assert path in text
    streams = {"caddyfile": ["flush_interval -1"], "nginx": ["proxy_request_buffering off", "proxy_buffering off"]}
    assert all(setting in text for setting in streams[language])
    hides = {"caddyfile": "replace token", "nginx": '"$request_method $uri"'}
    assert hides[language] in text


def test_proxies_wait_longer_than_the_server() -> None:
    seconds = re.search(r"proxy_read_timeout (\d+)s", block("nginx"))
    headers = re.search(r"response_header_timeout (\d+)s", block("caddyfile"))
    fields = Settings.model_fields
    assert seconds and headers and seconds[1] == headers[1]
    assert int(seconds[1]) > max(fields["max_seconds"].default, fields["visible_seconds"].default)


def test_the_nightly_commands_find_the_services_workspace(tmp_path: Path) -> None:
    """The lines of the crontab, run by the shell from another directory as cron runs them."""
    service, backups, home = (tmp_path / name for name in ("service", "backups", "home"))
    for directory in (service, backups, home):
        directory.mkdir()
    cli = Cli(service)
    cli.write(FILES)
    cli("--data", service / "data", "push")
    (lines,) = re.findall(r"^((?:[\d*]+ ){5}rookery .*\n(?:.+\n)*)```$", PAGE, re.MULTILINE)
    binary = re.search(r"^ExecStart=(\S+)", block("ini"), re.MULTILINE)
    assert binary
    for line in lines.splitlines():
        command = line.split(" ", 6)[6].replace(binary[1], cli.command[0])
        command = command.replace("/var/lib/rookery", str(service)).replace("/backups", str(backups))
        done = subprocess.run(
            ["/bin/sh", "-c", command], cwd=home, env=cli.seen(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    assert [p.suffix for p in backups.iterdir()] == [".tar"]
    assert not list(home.iterdir())
