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
NEWEST := .venv-newest
NEWEST_PYTHON ?= $(shell $(BIN)/python .ci/pythons.py | tail -n 1)
NIGHTLY := .venv-nightly
# The index of jax that has the builds of each night, and no release.
NIGHTLY_INDEX := https://us-python.pkg.dev/ml-oss-artifacts-published/jax-public-nightly-artifacts-registry/simple/

# Overrides of the configuration, such as --config.epochs=1.
DEMO_ARGS ?=
# More arguments for pytest, such as "-k lstm -x"; -m is taken.
TEST_ARGS ?=
# Pythons for make check-dist, such as "python3.11 python3.14".
PYTHONS ?=
# The tag for make check-tag.
TAG ?=
# Number of pytest processes; the default suits two cores.
WORKERS ?= 2
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal
# What the library alone can test in a short time, in another environment.
QUICK_TESTS := -m pytest -n $(WORKERS) --dist worksteal \
  -m 'not slow and not optimized' tests --ignore=tests/experiments \
  --ignore=tests/benchmarks --ignore=tests/test_notebooks.py
# Exit status of pytest if TEST_ARGS select none of the tests of one call.
NO_TESTS := 5

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: demo test test-oldest test-newest test-nightly docs links lint format \
  mutants clean distclean help install lock dist check-dist check-tag

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
	$(BIN)/mypy setup.py .ci/*.py docs/*.py
	$(BIN)/lint-imports --no-cache

format: $(VENV)/.dev  ## Format the code, and fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# A build without EXECUTE shows the notebooks without their results.
docs: $(VENV)/.dev  ## Build the documentation in docs/_build/html; EXECUTE=1 runs the notebooks
	$(BIN)/python -m sphinx -W --keep-going -q -E -b html \
	  -D nb_execution_mode=$(if $(EXECUTE),force,off) docs docs/_build/html

links: $(VENV)/.dev  ## Follow all links of the documentation; needs the Internet
	$(BIN)/python -m sphinx -W --keep-going -q -b linkcheck docs docs/_build/links

# The results of an interrupted call count for the same code only.
mutants: $(VENV)/.dev  ## Plant bugs and count those that the tests notice; takes an hour
	$(BIN)/python -m benchmarks.mutants --workers $(WORKERS) \
	  --done $(VENV)/mutants-$$(git ls-files -co --exclude-standard -z | \
	    xargs -0 cat 2>/dev/null | sha256sum | cut -c1-16).jsonl \
	  --json results/benchmarks/mutants.json

install: $(VENV)/.dev  ## Make .venv with everything that development needs; LOCKED=1 as in the lock file

lock: $(VENV)/.dev  ## Write the lock file again, with the newest versions
	$(BIN)/uv pip compile -q --upgrade --universal --python-version 3.11 \
	  --generate-hashes --extra dev --custom-compile-command 'make lock' \
	  setup.cfg -o $(LOCK)

test-oldest: $(VENV)/.dev  ## Run the quick tests of the library with the oldest versions
	$(BIN)/uv venv -q --clear --python 3.11 $(OLDEST)
	$(BIN)/uv pip install -q --python $(OLDEST)/bin/python \
	  --resolution lowest-direct -e '.[test]'
	$(OLDEST)/bin/python .ci/check_oldest.py
	$(OLDEST)/bin/python $(QUICK_TESTS) $(TEST_ARGS)

# The packages of ONNX cannot be installed in .venv, because their pins conflict.
test-newest: $(VENV)/.dev  ## Run the same tests, and those of ONNX and GGUF, on the newest Python
	$(BIN)/uv venv -q --clear --seed --python $(NEWEST_PYTHON) $(NEWEST)
	$(BIN)/uv pip install -q --python $(NEWEST)/bin/python -e '.[test,onnx,gguf]'
	$(BIN)/uv pip freeze -q --python $(NEWEST)/bin/python | \
	  grep -E '^(jax|flax|optax|chex|numpy)=='
	$(NEWEST)/bin/python $(QUICK_TESTS) $(TEST_ARGS)
	$(NEWEST)/bin/python -m pytest tests/experiments/deploy -k 'onnx or gguf'

# The Python of .venv; jax is upgraded after the other packages, because uv would
# otherwise also take their prereleases.
test-nightly: $(VENV)/.dev  ## Run the same tests with last night's build of jax
	$(BIN)/uv venv -q --clear --python $(BIN)/python $(NIGHTLY)
	$(BIN)/uv pip install -q --python $(NIGHTLY)/bin/python -e '.[test]'
	$(BIN)/uv pip install -q --python $(NIGHTLY)/bin/python --prerelease allow \
	  --index $(NIGHTLY_INDEX) -P jax -P jaxlib jax jaxlib
	$(NIGHTLY)/bin/python -c 'import jax, jaxlib; print(jax.__version__); \
	  assert "dev" in jax.__version__ and "dev" in jaxlib.__version__'
	$(NIGHTLY)/bin/python $(QUICK_TESTS) $(TEST_ARGS)

# An index may refuse a description that does not render. twine finds that here.
dist: $(VENV)/.dev  ## Build the sdist in dist/, and from the sdist the wheel
	rm -rf dist
	$(BIN)/uv build -q
	$(BIN)/twine check --strict dist/*.whl dist/*.tar.gz

# PYTHONS must all work. Without it, a Python that is absent is skipped.
check-dist: dist  ## Build and install both on all Pythons of this machine, and train
	$(BIN)/python .ci/check_dist.py $(PYTHONS)

check-tag: $(VENV)/.made  ## Check that TAG=v1.2.3 fits the version, changelog and citation
	@$(BIN)/python .ci/check_tag.py "$$TAG"

clean:  ## Remove the demo run, short runs of notebooks, caches, build outputs
	rm -rf $(DEMO_DIR) notebooks/runs build dist docs/_build docs/made \
	  .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find mq_jax experiments benchmarks tests -name __pycache__ -prune -exec rm -rf {} +

distclean: clean  ## Also remove the environments and the unpacked test data
	rm -rf $(VENV) $(NEWEST) $(OLDEST) $(NIGHTLY) .mq_data mq_jax.egg-info

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
