# `make run` trains the first sweep, `make test` checks everything; both set up what they need on a fresh machine.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := run
.PHONY: run test lint docs

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	@touch $@

run: $(VENV)/.installed
	$(BIN)/nc-train +experiment=first_light

# Many tests wait for processes of their own: three at a time keep two cores busy. Those that share a core do not spin.
test: export OMP_WAIT_POLICY = passive
test: $(VENV)/.installed
	$(BIN)/python -m pytest --numprocesses=3

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.installed
	$(BIN)/python docs/reference.py
