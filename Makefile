# `make demo` and `make test` need Python 3.11 or newer and a package index, nothing else.

# The newest supported Python that is found; another: make PYTHON=python3.12 ..., which pyenv may have and not switched on
override PYTHON := $(or $(shell .ci/python $(patsubst python%,%,$(PYTHON))),$(PYTHON))
OLDEST_PYTHON := $(shell .ci/python 3.11)
VENV   ?= .venv
BIN    := $(VENV)/bin
OLDEST := .venv-oldest

# Most of the time goes into compiling, on one core; a file's tests stay together, as do the programs they share.
PARALLEL ?= --numprocesses 2 --dist loadfile

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1

.DEFAULT_GOAL := help
.PHONY: help demo test oldest slow lint docs clean

help: ## show what can be made
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.installed-run ## deblend a simulated field; pictures and catalog go to demo/
	$(BIN)/jaxdeblend demo -o demo/

test: lint docs ## everything that a change must pass
	@$(BIN)/python .ci/versions.py
	JAX_ENABLE_X64=1 $(BIN)/python -m pytest -q $(PARALLEL) tests/ops tests/instrument
	$(BIN)/python -m pytest --durations=10 $(PARALLEL)

oldest: ## a short suite with Python 3.11 and the oldest supported dependencies
ifeq ($(OLDEST_PYTHON),)
	@echo "make oldest: skipped, as there is no Python 3.11"
else
	@$(MAKE) --no-print-directory $(OLDEST)/.installed
	@$(OLDEST)/bin/python .ci/versions.py
	$(OLDEST)/bin/python -m pytest --durations=5 tests/test_short.py
endif

slow: $(VENV)/.installed-dev ## what takes a minute or more: notebooks, and some benchmarks in small
	$(BIN)/python -m pytest -m slow $(PARALLEL)

lint: $(VENV)/.installed-dev ## style, types and the architecture
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

docs: $(VENV)/.installed-dev ## the documentation, in docs/_build/html
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --builder html docs docs/_build/html

clean: ## remove the environment, caches, builds and the demo
	rm -rf $(VENV) $(OLDEST) build dist demo docs/_build docs/api
	rm -rf .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment follows pyproject.toml alone: the package is installed in place.
$(VENV)/.made:
	@test -n "$(PYTHON)" || { echo "jaxdeblend needs Python 3.11 or newer, and none was found: make PYTHON=path ..."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "jaxdeblend needs Python 3.11 or newer; \
	$(PYTHON) is " + sys.version.split()[0] + ". Choose another: make PYTHON=python3.12 ...")'
	@echo "using $$($(PYTHON) --version) ($(PYTHON)) in $(VENV)"
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.installed-run: pyproject.toml | $(VENV)/.made
	$(BIN)/python -m pip install --quiet --editable '.[all]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(VENV)/.made
	$(BIN)/python -m pip install --quiet --editable '.[all,test,dev,docs]'
	@touch $@ $(VENV)/.installed-run

$(OLDEST)/.installed: pyproject.toml .ci/oldest.txt
	@echo "using $$($(OLDEST_PYTHON) --version) ($(OLDEST_PYTHON)) in $(OLDEST)"
	$(OLDEST_PYTHON) -m venv --clear $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --constraint .ci/oldest.txt --editable '.[all]' beartype hypothesis pytest
	@touch $@
