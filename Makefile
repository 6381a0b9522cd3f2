# Two commands do everything, including set-up: make demo, make test.
# A stamp file in .venv records what is installed. pip runs again if setup.cfg
# or pyproject.toml is newer than the stamp.

VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install -q --disable-pip-version-check
DEMO_DIR := runs/demo

# The newest Python that works. Newer releases of jax need a newer Python, and
# their convolutions on CPU are faster. make evaluates this only when
# it creates .venv. A pyenv shim can be on PATH and still fail to run.
PYTHON ?= $(shell for p in python3.14 python3.13 python3.12 python3.11 python3; \
  do $$p -c $(NEW_ENOUGH) >/dev/null 2>&1 && echo $$p && break; done)
NEW_ENOUGH := 'import sys, ssl, venv, ensurepip; sys.exit(sys.version_info < (3, 11))'

# Overrides of the configuration, such as --config.epochs=1.
DEMO_ARGS ?=
# More arguments for pytest, such as "-k lstm -x"; -m is taken.
TEST_ARGS ?=
# Number of pytest processes; the default suits two cores.
WORKERS ?= 2
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal
# Exit status of pytest if TEST_ARGS select none of the tests of one call.
NO_TESTS := 5

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: demo test lint format clean distclean help install

demo: $(VENV)/.experiments  ## Train a ResNet20 with 1-bit weights; takes a few minutes
	rm -rf $(DEMO_DIR)
	$(BIN)/python -m experiments.cifar \
	  --config=experiments/configs/digits.py --workdir=$(DEMO_DIR) $(DEMO_ARGS)

test: $(VENV)/.dev  ## Run the tests
	$(PYTEST) -m 'not optimized' $(TEST_ARGS) || [ $$? -eq $(NO_TESTS) ]
	JAX_DISABLE_MOST_OPTIMIZATIONS=false $(PYTEST) -m optimized $(TEST_ARGS) || \
	  [ $$? -eq $(NO_TESTS) ]

lint: $(VENV)/.dev  ## Check style, types and imports; changes nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy mq_jax experiments benchmarks
	$(BIN)/lint-imports --no-cache

format: $(VENV)/.dev  ## Format the code, and fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: $(VENV)/.dev  ## Make .venv with everything that development needs

# The long runs of the notebooks, whose names end in -full, stay.
clean:  ## Remove the demo run, short runs of notebooks, caches, build outputs
	rm -rf $(DEMO_DIR) $(filter-out %-full,$(wildcard notebooks/runs/*)) build dist .pytest_cache .hypothesis .mypy_cache \
	  .ruff_cache
	find mq_jax experiments benchmarks tests -name __pycache__ -prune -exec rm -rf {} +

distclean: clean  ## Also remove the environments and the unpacked test data
	rm -rf $(VENV) .venv-newest .mq_data mq_jax.egg-info

help:  ## Show this list
	@awk -F ':.*##' '/^[a-z]+:.*##/ {printf "make %-10s%s\n", $$1, $$2}' \
	  $(firstword $(MAKEFILE_LIST))

# Without --clear, venv keeps an environment that was made by hand.
$(VENV)/.made:
	@python="$(PYTHON)"; "$${python:-false}" -c $(NEW_ENOUGH) || { \
	  echo "No working Python 3.11 or newer found: PYTHON='$$python'." \
	    "Install one, or pass its path: make PYTHON=/path/to/python3.13" >&2; \
	  exit 1; }; \
	echo "Making $(VENV) with $$python"; "$$python" -m venv $(VENV)
	@touch $@

$(VENV)/.experiments: setup.cfg pyproject.toml | $(VENV)/.made
	@echo "Installing what the experiments need into $(VENV): about a minute"
	$(PIP_INSTALL) -e '.[experiments]'
	@touch $@

$(VENV)/.dev: setup.cfg pyproject.toml | $(VENV)/.made
	@echo "Installing what development needs into $(VENV): about a minute"
	$(PIP_INSTALL) -e '.[dev]'
	@touch $(VENV)/.experiments $@
