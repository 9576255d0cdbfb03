"""A push compiles the project once: what it has deployed is not compiled again when it is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.workspace import workspace as module
from tests.support.compiling import BASE, pushed, temporary_workspace


@pytest.mark.feature
def test_a_push_compiles_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled, build = [], module.build

    def counted(project: Any, *args: Any) -> Any:
        compiled.append(set(project.pipes))
        return build(project, *args)

    monkeypatch.setattr(module, "build", counted)
    with temporary_workspace(tmp_path) as workspace:
        compiled.clear()
        pushed(workspace, BASE)
        assert workspace.current.sources.keys() == BASE.keys()
        pushed(workspace, {"usage": BASE["usage"].replace("ORDER BY day", "ORDER BY day DESC")})
        assert "DESC" in str(workspace.current.build.pipes["usage"].nodes)
        pushed(workspace, {})
        assert len(compiled) == 2
        # Files that another process has deployed are compiled.
        workspace.registry.write(
            "resource", {"other": {"text": "sql: SELECT 1 AS one\n", "file": "pipes/other.yaml"}}
        )
        assert "other" in workspace.refresh().build.pipes
        assert len(compiled) == 3
