# Every target sets up .venv itself.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test test-fast test-slow coverage lint docs bench bench-quality soak versions
.DELETE_ON_ERROR:

quickstart: .venv/ready
	$(BIN)/repair-dist quickstart

# All but `slow` tests.
test: lint
	$(BIN)/python -m pytest -n 2 -m "not slow"

# The same tests, which take longer when every line is counted.
coverage: .venv/ready
	$(BIN)/python -m pytest -n 2 -m "not slow" --cov

# Several nodes, kill matrices, the wheel in an environment of its own, every benchmark at tiny size.
test-slow: .venv/ready
	$(BIN)/python -m pytest -n 2 -m slow

# The inner loop: what needs neither Ray, nor whole commands, nor more than some seconds.
test-fast: .venv/ready
	$(BIN)/python -m pytest -n 2 -m "not slow and not long" -q

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The site of docs/, in `site`; a warning is an error. The variable silences what the theme says at every build: that it is
# kept up until May 2027, and what follows it.
docs: .venv/ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Those of the first line also leave their numbers in bench-results, as Arrow files and charts.
bench: .venv/bench
	for script in fitness engines costs crossfit layers tiles deep optimize batch compare scale stages; do $(BIN)/python benchmarks/$$script.py --output bench-results || exit 1; done
	for script in rows tunings resplits modes prepare pruning; do $(BIN)/python benchmarks/$$script.py || exit 1; done
	$(BIN)/python benchmarks/plot.py bench-results
	$(BIN)/python benchmarks/aims.py bench-results

# Hours; interrupted, it goes on where it was. The line with methods.py makes docs/methods.md.
bench-quality: .venv/bench
	mkdir -p bench-results
	for script in quality promise; do $(BIN)/python benchmarks/$$script.py --out bench-results/$$script.jsonl || exit 1; done
	$(BIN)/python benchmarks/methods.py --output bench-results
	$(BIN)/python benchmarks/any_layer.py --out bench-results/any_layer.jsonl

soak: .venv/ready
	$(BIN)/python -m scripts.soak

# Hours: constraints.txt as of today, and what of docs/tested-versions.md that makes out of date; interrupted, it goes on.
versions: .venv/versions
	$(BIN)/python -m scripts.tested_versions constraints
	$(BIN)/python -m scripts.tested_versions run

# PIP_CONSTRAINT=$PWD/constraints.txt, as in CI, takes the versions of that file; else they are the newest.
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

# The particle swarms that benchmarks compare with; nothing else needs them.
.venv/bench: .venv/ready
	$(BIN)/python -m pip install --quiet --editable '.[dev,bench]'
	touch $@

# What makes the table of tested versions.
.venv/versions: .venv/ready
	$(BIN)/python -m pip install --quiet --editable '.[dev,versions]'
	touch $@
