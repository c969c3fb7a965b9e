# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

TESTS := $(BIN)/pytest -n auto --dist worksteal

.PHONY: help demo test test-all lint clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*  ## /\1|/p' Makefile | while IFS='|' read -r name text; do printf 'make %-10s %s\n' "$$name" "$$text"; done

demo: $(INSTALLED)  ## install, then passkey on the embedded model: a table in about two minutes
	$(BIN)/lcbench run demo

test: $(INSTALLED) lint  ## install, then linters, types and tests, but for the slow ones
	$(TESTS) -m 'not slow'

test-all: test  ## what CI runs: `make test`, then the slow tests
	$(TESTS) -m slow

lint: $(INSTALLED)  ## linters, types, and who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --quiet --no-compile --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	touch $@

clean:  ## remove the virtual environment and all caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist
