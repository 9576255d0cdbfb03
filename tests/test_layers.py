"""Who may import whom: the contracts of `pyproject.toml`, checked."""

from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports


def test_layers_are_respected() -> None:
    assert lint_imports(no_cache=True) == EXIT_STATUS_SUCCESS
