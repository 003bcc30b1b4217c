# Two commands do all the set-up: `make demo` and `make test`. Needs Python 3.10 or newer and make.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# Two cores suit most laptops and CI; `make test WORKERS=8` where there are more.
WORKERS ?= 2

# Offline-safe: no telemetry, and no network look-up when litellm is imported.
export MLFLOW_DISABLE_TELEMETRY ?= true
export LITELLM_LOCAL_MODEL_COST_MAP ?= True
# Some sandboxes switch bytecode off; MLflow then takes a quarter of a minute to import, every time.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test quick lint typecheck unit bench generate stack stack-build clean

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/.installed  ## Play the main job: no API key, no Docker, no account
	$(BIN)/assay demo

test: lint typecheck unit  ## Linting, typing and all tests

quick: $(VENV)/.installed-dev  ## The tests to run while working: no servers, nothing that takes seconds
	$(BIN)/pytest -n $(WORKERS) --dist loadfile -m "not slow and not integration"

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

typecheck: $(VENV)/.installed-dev
	$(BIN)/mypy

unit: $(VENV)/.installed-dev
	$(BIN)/pytest -n $(WORKERS) --dist loadfile

bench: $(VENV)/.installed-dev  ## Benchmarks: each prints a ratio measured in one run
	@for script in tests/benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

generate: $(VENV)/.installed-dev  ## Rewrite what is generated: judges/schema.json and the README's tables
	$(BIN)/python tests/generate.py

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "mlflow-assay needs Python 3.10 or newer; found $$($(PYTHON) --version). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV) || { echo "On Debian and Ubuntu: apt install python3-venv"; rm -rf $(VENV); exit 1; }

# uv installs in seconds what takes pip minutes; pip serves where uv cannot be had.
install = { $(BIN)/python -m pip install -q uv && $(BIN)/uv pip install -q --compile-bytecode -p $(BIN)/python -e $(1); } || $(BIN)/python -m pip install -q -e $(1)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	@echo "Installing into $(VENV) …"
	@$(call install,'.')
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	@echo "Installing into $(VENV) …"
	@$(call install,'.[dev]')
	@touch $@ $(VENV)/.installed

stack: $(VENV)/.installed  ## Real servers on loopback: collector, Tempo, Prometheus, PostgreSQL, MLflow; ^C stops them
	PYTHONPATH=tests/stack $(BIN)/python -m assay_stack up

stack-build:  ## Build collector and Tempo once (Go 1.26), for `make stack` and the integration tests
	PYTHONPATH=tests/stack $(PYTHON) -m assay_stack build

clean:  ## Remove what the demo and the builds made
	rm -rf $(VENV) assay-demo dist build .pytest_cache .mypy_cache .ruff_cache
