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

# With LOCKED=1, development installs exactly the versions in LOCK.
LOCKED ?=
LOCK := requirements-dev.txt
OLDEST := .venv-oldest

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
.PHONY: demo test test-oldest lint format mutants clean distclean help install \
  lock

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

mutants: $(VENV)/.dev  ## Plant bugs and count those that the tests notice; takes an hour
	$(BIN)/python -m benchmarks.mutants --workers $(WORKERS) \
	  --json results/benchmarks/mutants.json

install: $(VENV)/.dev  ## Make .venv with everything that development needs; LOCKED=1 as in the lock file

lock: $(VENV)/.dev  ## Write the lock file again, with the newest versions
	$(BIN)/uv pip compile -q --upgrade --universal --python-version 3.11 \
	  --generate-hashes --extra dev --custom-compile-command 'make lock' \
	  setup.cfg -o $(LOCK)

# The library and its tests, as on the newest Python in .ci/run.
test-oldest: $(VENV)/.dev  ## Run the quick tests of the library with the oldest versions
	$(BIN)/uv venv -q --clear --python 3.11 $(OLDEST)
	$(BIN)/uv pip install -q --python $(OLDEST)/bin/python \
	  --resolution lowest-direct -e '.[test]'
	$(OLDEST)/bin/python .ci/check_oldest.py
	$(OLDEST)/bin/python -m pytest -n $(WORKERS) --dist worksteal \
	  -m 'not slow and not optimized' tests --ignore=tests/experiments \
	  --ignore=tests/benchmarks --ignore=tests/test_notebooks.py $(TEST_ARGS)

# The long runs of the notebooks, whose names end in -full, stay.
clean:  ## Remove the demo run, short runs of notebooks, caches, build outputs
	rm -rf $(DEMO_DIR) $(filter-out %-full,$(wildcard notebooks/runs/*)) build dist .pytest_cache .hypothesis .mypy_cache \
	  .ruff_cache
	find mq_jax experiments benchmarks tests -name __pycache__ -prune -exec rm -rf {} +

distclean: clean  ## Also remove the environments and the unpacked test data
	rm -rf $(VENV) .venv-newest $(OLDEST) .mq_data mq_jax.egg-info

help:  ## Show this list
	@awk -F ':.*##' '/^[a-z-]+:.*##/ {printf "make %-12s%s\n", $$1, $$2}' \
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

$(VENV)/.dev: setup.cfg pyproject.toml $(if $(LOCKED),$(LOCK)) | $(VENV)/.made
	@echo "Installing what development needs into $(VENV): about a minute"
ifeq ($(LOCKED),)
	$(PIP_INSTALL) -e '.[dev]'
else
	$(PIP_INSTALL) --require-hashes -r $(LOCK)
	$(PIP_INSTALL) --no-deps -e .
endif
	@touch $(VENV)/.experiments $@
