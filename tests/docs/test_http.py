"""`docs/http.md` lists exactly the routes that the application has."""

from __future__ import annotations

import re
from types import SimpleNamespace

from starlette.routing import Route

from engine.settings import Settings
from engine.web.app import create_app
from tests.docs.reading import ROOT, rows

TEXT = (ROOT / "docs" / "http.md").read_text(encoding="utf-8")


def _routes() -> dict[str, set[str]]:
    """Methods by path of the application; it is not started, so no database is opened."""
    app = create_app(SimpleNamespace(settings=Settings()))
    methods: dict[str, set[str]] = {}
    for route in app.routes:
        assert isinstance(route, Route)
        path = re.sub(r"\{(\w+):\w+\}", r"{\1}", route.path).rstrip("/")
        methods.setdefault(path, set()).update((route.methods or set()) - {"HEAD"})
    return methods


def test_every_route_is_documented_with_its_methods() -> None:
    documented = {path.strip("`"): set(methods.split(", ")) for path, methods, _, _ in rows(TEXT, "Routes")}
    assert documented == _routes()


def test_formats_are_documented() -> None:
    from engine.web import datasources, pipes

    for name in pipes.FORMATS:
        assert re.search(rf"`\.{name}`|/v0/pipes/NAME\.{name}`", TEXT), name
    for name in datasources.INPUTS.keys() - {"json"}:
        assert f"`{name}`" in TEXT, name


def test_headers_are_documented() -> None:
    from engine.web.requests import TENANT_HEADER

    exposed = re.search(r"exposed = \[(.*?)\]", (ROOT / "engine/web/app.py").read_text(encoding="utf-8"), re.DOTALL)
    assert exposed
    for header in [*re.findall(r'"([^"]+)"', exposed[1]), TENANT_HEADER]:
        assert header.lower() in TEXT.lower(), header


def test_metrics_are_documented() -> None:
    from engine.observe.metrics import REGISTRY

    page = (ROOT / "docs" / "observability.md").read_text(encoding="utf-8")
    documented = [
        [name.strip("`"), kind, labels.strip("`"), what] for name, kind, labels, what in rows(page, "Metrics")
    ]
    metrics = [m for m in REGISTRY.collect() if not m.name.endswith("_created")]
    assert [[name, kind, help] for name, kind, _, help in documented] == [
        [m.name.removeprefix("rookery_"), m.type, m.documentation] for m in metrics
    ]
    # A metric without labels has a sample from the start.
    assert {name for name, _, labels, _ in documented if not labels} == {
        m.name.removeprefix("rookery_") for m in metrics if m.samples and not m.samples[0].labels
    }


def test_every_check_of_the_doctor_is_documented() -> None:
    from engine.control.doctor import examination

    documented = {name for cell, _ in rows(TEXT, "Doctor") for name in re.findall(r"`([^`]+)`", cell)}
    assert documented == {*examination.WITHOUT_CHANGES, *examination.AT_ANY_TIME, *examination.DEEP, "drift"}
