# Two commands matter: `make demo` and `make test`. Each installs what it needs into .venv on its first run.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

JOBS ?= 2
BIN := .venv/bin
STAMP := .venv/.installed
BENCH_STAMP := .venv/.installed-bench
TYPES := build/types/mhc_compile
CODE := mhc_compile passes kernels tests examples benchmarks

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help install demo test lint format types unit exhaustive mutants zoo fuzz gpu-proof bench clean

help:  ## list the commands
	@sed -nE 's/^([a-z-]+):.*## (.*)$$/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

install: $(STAMP)  ## create .venv with everything that is needed

demo: $(STAMP)  ## inspect, transform and train a real model (timm vit_tiny), about a minute
	$(BIN)/python -m examples.demo

test: lint types unit  ## everything CI runs: style, types, tests

lint: $(STAMP)  ## style, without changing anything
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP)  ## fix style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# passes/ and kernels/ lie beside the package they belong to, so mypy is shown a tree of links where they lie inside.
types: $(STAMP)  ## mypy --strict
	rm -rf build/types
	mkdir -p $(TYPES)
	ln -s $(CURDIR)/mhc_compile/* $(CURDIR)/passes $(CURDIR)/kernels $(TYPES)
	cd build/types && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.mypy_cache \
		-p mhc_compile

# One thread per process: with several processes on few cores, more threads only wait for one another.
unit exhaustive mutants zoo fuzz gpu-proof: export OMP_NUM_THREADS ?= 1

unit: $(STAMP)  ## the tests, on JOBS=2 processes; of long tables the typical entries
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not exhaustive"

exhaustive: $(STAMP)  ## the tests with every entry of every table, three times as long
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

mutants: $(STAMP)  ## deliberate faults, one at a time, and which test catches each
	$(BIN)/python -m tests.mutants.run --jobs $(JOBS)

zoo: $(STAMP)  ## every model of the zoo (tests/zoo), an hour or more
	$(BIN)/python -m tests.zoo.run
	$(BIN)/python -m tests.zoo.run --calls
	$(BIN)/python -m tests.zoo.run --doors

fuzz: $(STAMP)  ## 10,000 random models through every check, and twice as many through random calls (hours)
	$(BIN)/python -m tests.fuzz.run --cases 10000
	$(BIN)/python -m tests.fuzz.run --cases 10000 --what calls
	$(BIN)/python -m tests.fuzz.run --cases 10000 --what whole_calls

gpu-proof: $(STAMP)  ## the Triton kernels and programs on a machine without a GPU: registers, numbers
	$(BIN)/python -m tests.gpu.compiled.resources
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal tests/gpu

bench: $(STAMP) $(BENCH_STAMP)  ## passes, mixing, training step, memory, traffic, backend, against what a user would use
	mkdir -p build/bench
	for name in passes_scaling mixing training_step memory traffic backend_overhead calls; do \
		$(BIN)/python -m benchmarks.$$name --json build/bench/$$name.json || missed="$${missed:-} $$name"; \
	done; [ -z "$${missed:-}" ] || { echo "bounds missed:$$missed"; exit 1; }

clean:  ## remove .venv and everything generated
	rm -rf .venv build .mypy_cache .ruff_cache .hypothesis *.egg-info

# Pinned versions and the package are resolved together, so torch is fetched once, in the version CI tests.
$(STAMP): requirements-ci.txt pyproject.toml
	@[ -x $(BIN)/pip ] || ./.ci/make_venv .venv
	$(BIN)/python -m pip install --quiet --requirement requirements-ci.txt --editable '.[zoo,dev]'
	@touch $@

# What the benchmarks compare with. Liger and lucidrains name torch without a version that would fit ours.
$(BENCH_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	@touch $@
