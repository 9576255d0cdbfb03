# The two commands of the README are `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUNTIME := $(VENV)/.installed
DEV := $(VENV)/.installed-dev
# One more than the two processors of a small machine: tests wait for servers and timers a fifth of the time.
WORKERS ?= 3
PIP := $(BIN)/python -m pip install --disable-pip-version-check --no-color

.PHONY: demo test test-fast soak serve check format bench proofs build clean

# The product's dependencies, without development tools.
$(RUNTIME): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed (make PYTHON=python3.12)")'
	@echo "Installing $$(wc -l < requirements.lock) packages into $(VENV), about 900 MB, most of it the engine"
	@echo "(at the end, pip unpacks them and prints nothing for a while)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) --requirement requirements.lock
	@$(PIP) --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(DEV): $(RUNTIME) requirements-dev.lock
	@echo "Installing the developers' tools: $$(wc -l < requirements-dev.lock) packages"
	@$(PIP) --quiet --requirement requirements-dev.lock
	@touch $@

demo: $(RUNTIME)
	@$(BIN)/rookery demo

serve: $(RUNTIME)
	@$(BIN)/rookery serve

# Linters, types and layers first: they fail fastest.
check: $(DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

test: check
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# For daily work: without the files listed in tests/slow.txt.
test-fast: $(DEV)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --fast

# Randomized tests with ten times as many rounds, and the tests that are too long for `make test`.
soak: $(DEV)
	SOAK=10 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m 'soak or soak_only'

format: $(DEV)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(DEV)
	$(BIN)/python -m benchmarks

proofs: $(DEV)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --proofs

# The source distribution and the wheel.
build: $(DEV)
	$(BIN)/python -m build --no-isolation

clean:
	rm -rf $(VENV) .rookery .pytest_cache .mypy_cache .ruff_cache build dist *.egg-info
