# The two commands of the README are `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-fast soak serve check format bench proofs clean

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed (make PYTHON=python3.12)")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

demo: $(STAMP)
	@$(BIN)/rookery demo

serve: $(STAMP)
	@$(BIN)/rookery serve

# Linters, types and layers first: they fail fastest.
check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

test: check
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# For daily work: without the files that tests/slow.txt names.
test-fast: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --fast

# Tests with chance in them, ten times as long.
soak: $(STAMP)
	SOAK=10 $(BIN)/python -m pytest -n 2 --dist loadfile -m soak

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)
	$(BIN)/python -m benchmarks

proofs: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile --proofs

clean:
	rm -rf $(VENV) .rookery .pytest_cache .mypy_cache .ruff_cache build *.egg-info
