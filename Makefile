# Two commands do everything: `make quickstart` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: quickstart test lint docs bench clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "merpo needs Python 3.11 or newer; run: make PYTHON=/path/to/python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

quickstart: $(STAMP)
	$(BIN)/merpo quickstart --out quickstart

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -n 2 --dist worksteal

docs: $(STAMP)
	$(BIN)/python -m sphinx -W --keep-going -b html -d docs/_build/trees docs docs/_build/html
	$(BIN)/python -m sphinx -W --keep-going -b doctest -d docs/_build/trees docs docs/_build/doctest

bench: $(STAMP)
	$(BIN)/python benchmarks/rac_throughput.py

clean:
	rm -rf $(VENV) quickstart docs/_build
