# SPDX-License-Identifier: Apache-2.0
#
# `make demo` and `make test` are all a newcomer needs: each builds .venv first if it is missing or out of date.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all check docs format clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

# The stamp is written last, so an interrupted installation is taken up again.
$(STAMP): pyproject.toml constraints.txt
	@"$(PYTHON)" -c 'import sys; sys.exit("trl_concise needs Python 3.11 or newer, and $(PYTHON) is " + sys.version.split()[0] + ". Name another one: make PYTHON=python3.12") if sys.version_info < (3, 11) else 0'
	"$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

install: $(STAMP)  ## build .venv with the tested versions (constraints.txt)

demo: $(STAMP)  ## train the embedded model with HAPO on the CPU, a few minutes
	$(BIN)/accelerate launch examples/hapo.py

test: $(STAMP)  ## run the tests, offline and on the CPU
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

test-all: $(STAMP)  ## run the slow tests too
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal -m 'slow or not slow'

check: $(STAMP)  ## lint and check the formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

docs: $(STAMP)  ## build the documentation site into site/
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

format: $(STAMP)  ## fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove .venv, outputs and caches
	rm -rf $(VENV) outputs site build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
