# `make quickstart` and `make test` set up .venv themselves.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test lint bench soak
.DELETE_ON_ERROR:

quickstart: .venv/ready
	$(BIN)/repair-dist quickstart

test: lint
	$(BIN)/python -m pytest

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/ready
	for script in fitness optimize rows quality modes batch scale prepare; do $(BIN)/python benchmarks/$$script.py || exit 1; done

soak: .venv/ready
	$(BIN)/python -m scripts.soak

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@
