"""The commands of the reviews example, on generated reviews."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

from tests.support.server import running

PROJECT = Path(__file__).resolve().parents[2] / "examples" / "reviews"


def test_the_numbers_of_generated_reviews(tmp_path: Path) -> None:
    text = subprocess.run(
        [sys.executable, PROJECT / "generate.py", "--reviews", "5000", "--vendors", "20"],
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    reviews = list(csv.DictReader(text.splitlines()))
    assert len(reviews) == 5000
    with running(tmp_path) as server:
        server.push(PROJECT)
        server.tenant("0", "tables")
        server.tenant("3", "pooled")
        body = "reviewer_id,vendor_id,rating,date" + text[text.index("\n") :]
        answer = server.admin("POST", "/v0/datasources?name=reviews&mode=append&format=csv", content=body)
        assert answer.status_code == 200, answer.text
        for vendor in ("0", "3"):
            own = [r for r in reviews if r["vendorId"] == vendor]
            token = server.mint("PIPES:READ:vendor_summary", tenant=vendor)
            (row,) = server.get("/v0/pipes/vendor_summary.json", token).json()["data"]
            assert row["reviews"] == len(own) > 100
            assert row["reviewers"] == len({r["reviewerId"] for r in own})
            assert abs(row["average_rating"] - sum(int(r["rating"]) for r in own) / len(own)) < 1e-9
