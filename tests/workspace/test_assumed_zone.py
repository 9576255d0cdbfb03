"""A directory of the first layout that is first opened on a host in another time zone, and the correction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.data import first_layout as old
from tests.support.server import Server, running

ELSEWHERE = {"TZ": "Europe/Berlin"}
MIDNIGHT = "SELECT toString(toDateTime(0)) AS local"


def _errors(server: Server) -> list[dict[str, Any]]:
    findings = server.admin_json("GET", "/v0/doctor", params={"deep": "true"})["findings"]
    return [f for f in findings if f["level"] == "error"]


@pytest.mark.feature
def test_the_doctor_names_the_zone_instead_of_differences(tmp_path: Path) -> None:
    home = old.unpacked(tmp_path / "home")
    with running(home, **ELSEWHERE) as server:
        errors = _errors(server)
        before = [f for f in errors if f["check"] not in ("derived", "time-zone")]
        (finding,) = [f for f in errors if f["check"] in ("derived", "time-zone")]
        assert finding["check"] == "time-zone"
        assert f"ROOKERY_TIMEZONE={old.ZONE}" in finding["hint"]
        refused = server.admin("POST", "/v0/doctor", json={})
        assert refused.json()["code"] == "RK7010", refused.text
        assumed = server.sql(MIDNIGHT)
    # A zone that was only assumed can be corrected, and is then final.
    with running(home, **ELSEWHERE, ROOKERY_TIMEZONE=old.ZONE) as server:
        assert _errors(server) == before
        corrected = server.sql(MIDNIGHT)
        assert corrected != assumed
    with running(home, **ELSEWHERE) as server:
        assert server.sql(MIDNIGHT) == corrected
