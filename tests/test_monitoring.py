"""The files for Prometheus and Grafana in `deploy/`: well formed, and only with metrics and labels that exist."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.errors import codes
from engine.observe import metrics
from engine.web.access import ACCESS

DEPLOY = Path(__file__).parents[1] / "deploy"
RULES = yaml.safe_load((DEPLOY / "prometheus" / "rookery.rules.yml").read_text(encoding="utf-8"))
SCRAPE = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
DASHBOARD = json.loads((DEPLOY / "grafana" / "rookery.json").read_text(encoding="utf-8"))
SCRAPED = {"instance", "job"}
"""Labels that Prometheus adds."""


def _alerts() -> list[dict[str, Any]]:
    return [rule for group in RULES["groups"] for rule in group["rules"]]


def _queries() -> Iterator[str]:
    yield from (rule["expr"] for rule in _alerts())
    for panel in DASHBOARD["panels"]:
        yield from (target["expr"] for target in panel["targets"])


def _labels() -> dict[str, set[str]]:
    """The labels of each sample that the server can send, by its name."""
    labels_by_metric: dict[str, set[str]] = {"up": set()}
    for metric in metrics.REGISTRY.collect():
        own = next((m for m in vars(metrics).values() if getattr(m, "_name", None) == metric.name), None)
        labels = set(getattr(own, "_labelnames", ()))
        endings = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}.get(metric.type, ("",))
        for ending in endings:
            labels_by_metric[metric.name + ending] = labels | ({"le"} if ending == "_bucket" else set())
    return labels_by_metric


@pytest.mark.parametrize("query", list(_queries()))
def test_queries_name_metrics_and_labels_that_exist(query: str) -> None:
    known = _labels()
    used = re.findall(r"\b(rookery_\w+|process_\w+|up)\b(?:\{([^}]*)\})?", query)
    assert used
    for name, matchers in used:
        assert name in known, name
        for label, value in re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"', matchers):
            assert label in known[name] | SCRAPED, f"{name} has no label {label}"
            if label == "code":
                assert set(value.split("|")) <= codes().keys()
    for grouped in re.findall(r"by \(([^)]*)\)", query):
        assert {label.strip() for label in grouped.split(",")} <= {x for n, _ in used for x in known[n]} | SCRAPED
    assert query.count("(") == query.count(")") and query.count("{") == query.count("}")


def test_alerts_are_complete() -> None:
    names = [alert["alert"] for alert in _alerts()]
    assert len(names) == len(set(names)) >= 5
    for alert in _alerts():
        assert re.fullmatch(r"\d+m", alert["for"])
        assert alert["labels"]["severity"] in {"critical", "warning"}
        assert alert["annotations"]["summary"]
    page = (DEPLOY.parent / "docs" / "observability.md").read_text(encoding="utf-8")
    assert [name for name in names if f"`{name}`" not in page] == []


def test_the_scrape_needs_only_the_scope_for_metrics() -> None:
    (job,) = SCRAPE["scrape_configs"]
    assert job["authorization"]["credentials_file"]
    assert SCRAPE["rule_files"] == ["rookery.rules.yml"]
    assert job.get("metrics_path", "/metrics") in ACCESS
    assert ACCESS["/metrics"]["GET"] == {"ADMIN", "METRICS:READ"}


def test_panels_do_not_overlap() -> None:
    cells = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells)) and max(x for x, _ in cells) < 24
