# The targets are described beside them: `make` alone, and `make help`, list them.

PYTHON ?= python3
# of cerebras-pytorch, the appliance's: 2.10.0 or 2.6.0
CEREBRAS_RELEASE ?= 2.10.0
KILLS ?= 30
SEED ?= 0
FUZZ_SECONDS ?= 600
BIN := .venv/bin
# Python compiles what a command imports when it imports it; compiling all that is installed takes a minute.
PIP := --quiet --no-compile --disable-pip-version-check

.DEFAULT_GOAL := help

.PHONY: help install run test test-fast test-all test-browser test-cerebras test-modelzoo test-slurm docs chaos fuzz lint format bench

help: ## this list
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: .venv/installed ## set up, then the default study
	$(BIN)/snakemake

# Whole files go to one of two processes, the long ones first: fixtures are made once, and both end together.
TESTS := $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-fast: .venv/installed-tests ## set up, then the tests that start no process: 2 minutes
	$(TESTS) --tier fast

test: .venv/installed-tests ## set up, then what a commit needs, with the scripts, the plans and one whole study: 8 minutes
	$(TESTS) --tier commit

test-all: .venv/installed-tests ## set up, then every test that needs no other environment: 25 minutes
	$(TESTS) --tier all

test-browser: .venv/installed-tests ## the results page in headless Chromium; skipped without Chromium and chromedriver
	$(BIN)/python -m pip install $(PIP) --editable '.[browser]'
	$(BIN)/python -m pytest tests/browser

test-cerebras: .venv/installed-tests .venv-cerebras/installed-$(CEREBRAS_RELEASE) ## the tests of the backend cerebras; installs cerebras-pytorch (5.7 GB) into its own environment; Python 3.11
	SPARSEFT_PYTHON='$(abspath $(BIN)/python)' .venv-cerebras/bin/python -m pytest tests/cerebras

test-modelzoo: .venv/installed-tests ## the tests of the backend modelzoo; MODELZOO_HOME names a checkout of ModelZoo 2.10.0
	test -n "$(MODELZOO_HOME)" || { echo "set MODELZOO_HOME: docs/modelzoo.md"; exit 2; }
	MODELZOO_PYTHON="$${MODELZOO_PYTHON:-$(MODELZOO_HOME)/.venv/bin/python}" $(BIN)/python -m pytest tests/modelzoo

chaos: .venv/installed-tests ## 30 kills at random moments of a small study, and whether it comes to the same results; half an hour
	$(BIN)/python tests/chaos.py --kills $(KILLS) --seed $(SEED)

fuzz: .venv/installed-tests ## random files for each of four parsers, ten minutes each
	$(BIN)/python -m pip install $(PIP) --editable '.[fuzz]'
	for parser in mask safetensors mdl log; do \
	  $(BIN)/python tests/fuzz.py $$parser .fuzz/$$parser -max_total_time=$(FUZZ_SECONDS) || exit 1; \
	done

test-slurm: .venv/installed-tests ## the tests of profiles/pbs and of a real Slurm of one node; as root, with slurm-wlm and munge
	$(BIN)/python -m pip install $(PIP) --editable '.[cluster]'
	PATH='$(abspath $(BIN)):$(PATH)' $(BIN)/python -m pytest tests/workflow/test_pbs.py tests/slurm

# Without --quiet, which would hide the warnings that --strict counts.
docs: .venv/installed ## the documentation site, into site/; fails on a dead link or an old reference page
	$(BIN)/python -m pip install $(PIP) --editable '.[docs]'
	$(BIN)/python docs/generate.py --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: .venv/installed-tests ## ruff, snakefmt, snakemake --lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/snakemake --lint

format: .venv/installed-tests ## rewrite the code as lint wants it
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile rules

bench: .venv/installed-tests ## the benchmarks that need no data set, beside other projects, as ratios in one run
	$(BIN)/python benchmarks/masks.py
	$(BIN)/python benchmarks/lora.py
	$(BIN)/python benchmarks/analysis.py
	$(BIN)/snakemake models/smollm2/manifest.json
	$(BIN)/python benchmarks/lora_model.py models/smollm2
	$(BIN)/python benchmarks/compact.py models/smollm2

install: .venv/installed ## set up .venv, and run nothing

.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "Python 3.11 to 3.13 is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install $(PIP) --editable .
	touch $@

.venv/installed-tests: .venv/installed
	$(BIN)/python -m pip install $(PIP) --editable '.[test]'
	touch $@

# One environment: another release takes the place of what is there.
.venv-cerebras/installed-%: envs/cerebras/requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "Python 3.11 is needed: make PYTHON=python3.11 $@")'
	$(PYTHON) -m venv --clear .venv-cerebras
	.venv-cerebras/bin/python -m pip install --quiet --upgrade pip
	CEREBRAS_RELEASE=$* .venv-cerebras/bin/python -m pip install --quiet --requirement envs/cerebras/requirements.txt
	.venv-cerebras/bin/python -m pip install --quiet --no-deps --editable .
	touch $@
