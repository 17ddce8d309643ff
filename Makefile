# Two commands matter: `make demo` and `make test`. Each installs what it needs into .venv on its first run.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

JOBS ?= 2
BIN := .venv/bin
STAMP := .venv/.installed
BENCH_STAMP := .venv/.installed-bench
ZOO_STAMP := .venv/.installed-zoo
RECIPES_STAMP := .venv/.installed-recipes
DOCS_STAMP := .venv/.installed-docs
LOWEST_STAMP := .venv-lowest/.installed
CODE := mhc_compile passes kernels tests examples benchmarks

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help install demo test lint format types deep-types unit exhaustive mutants zoo fuzz gpu-proof bench study \
	study-short lowest docs browser clean

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

types: $(STAMP)  ## mypy --strict; two links in mhc_compile/ show it passes/ and kernels/
	$(BIN)/mypy mhc_compile

deep-types: $(STAMP)  ## the same with the types of every library
	mkdir -p build && sed '/^follow_imports/d' pyproject.toml > build/deep-types.toml
	$(BIN)/mypy --config-file build/deep-types.toml --cache-dir .mypy_cache/deep mhc_compile

# One thread per process: with several processes on few cores, more threads only wait for one another.
unit exhaustive mutants zoo fuzz gpu-proof study study-short lowest: export OMP_NUM_THREADS ?= 1
# Freed memory is kept instead of given back to the kernel and taken anew: a sixth of all processor time.
unit exhaustive mutants zoo fuzz lowest: export MALLOC_TRIM_THRESHOLD_ ?= 2000000000
unit exhaustive mutants zoo fuzz lowest: export MALLOC_MMAP_THRESHOLD_ ?= 1000000000
unit exhaustive mutants zoo fuzz lowest: export MALLOC_TOP_PAD_ ?= 67108864
# Where bytecode is not to be written (as in images of containers), each of the many processes would compile all files.
unit exhaustive mutants zoo fuzz lowest: export PYTHONDONTWRITEBYTECODE :=

unit: $(STAMP)  ## the tests, on JOBS=2 processes; of long tables the typical entries
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not exhaustive"

exhaustive: $(STAMP) $(RECIPES_STAMP) deep-types  ## the tests with every entry of every table, three times as long
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

# What stands on other libraries: their interfaces are what differs between versions.
LOWEST_TESTS := tests/test_versions.py tests/test_torch_compat.py tests/capture/test_trace.py tests/test_transform.py \
	tests/test_transform_inputs.py tests/dynamo/test_backend.py tests/dynamo/test_backend_by_name.py tests/dynamo/test_rewritten_once.py \
	tests/model/test_fallback.py tests/model/test_derivatives.py tests/programs/test_dispatch.py tests/pretrained \
	tests/test_huggingface.py tests/twin/test_offload.py tests/test_adapters.py tests/test_adapters_before.py tests/optimizers/test_groups.py \
	tests/kernels/operators/test_ops.py tests/gpu/test_interpreter.py \
	tests/recipes/test_transformers.py tests/recipes/test_peft.py tests/recipes/test_accelerate.py tests/recipes/test_timm.py

lowest: $(LOWEST_STAMP)  ## the lowest versions of torch, transformers, timm, accelerate that are promised, in .venv-lowest
	.venv-lowest/bin/python -m pytest -n $(JOBS) --dist worksteal -m "not exhaustive" $(LOWEST_TESTS)

mutants: $(STAMP)  ## deliberate faults, one at a time, and which test catches each
	$(BIN)/python -m tests.mutants.run --jobs $(JOBS)

zoo: $(STAMP) $(ZOO_STAMP)  ## every model of both zoos (tests/zoo), hours
	$(BIN)/python -m tests.zoo.run $(if $(CONNECTION),--connection $(CONNECTION))
	$(BIN)/python -m tests.zoo.run --calls
	$(BIN)/python -m tests.zoo.run --doors
	$(BIN)/python -m tests.zoo.run --verify

fuzz: $(STAMP)  ## 10,000 random models through every check, and twice as many through random calls (hours)
	$(BIN)/python -m tests.fuzz.run --cases 10000
	$(BIN)/python -m tests.fuzz.run --cases 10000 --what calls
	$(BIN)/python -m tests.fuzz.run --cases 10000 --what whole_calls

gpu-proof: $(STAMP)  ## the Triton kernels and programs on a machine without a GPU: registers, numbers
	$(BIN)/python -m tests.gpu.compiled.resources
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal tests/gpu

bench: $(STAMP) $(BENCH_STAMP)  ## passes, mixing, training step, memory, traffic, backend, decode, against what a user would use
	mkdir -p build/bench
	for name in passes_scaling mixing training_step estimate memory traffic backend_overhead calls decode; do \
		$(BIN)/python -m benchmarks.$$name --json build/bench/$$name.json || missed="$${missed:-} $$name"; \
	done; [ -z "$${missed:-}" ] || { echo "bounds missed:$$missed"; exit 1; }

study: $(STAMP)  ## small models with every connection at equal tokens, three seeds; goes on where it was (2 hours)
	$(BIN)/python -m benchmarks.study

study-short: $(STAMP)  ## the same with fewer and shorter runs, within ten minutes
	$(BIN)/python -m benchmarks.study --short

docs: $(DOCS_STAMP)  ## the documentation site, in build/site; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

# Chromium itself is a package of the system: apt-get install chromium.
browser: $(STAMP)  ## the report page in headless Chromium: keyboard, phone, accessibility, a thousand sites
	npm install --silent --no-save --prefix build/browser playwright-core@1.65.1 axe-core@4.14.1
	$(BIN)/python -m pytest tests/page/test_browser.py

clean:  ## remove .venv and everything generated
	rm -rf .venv .venv-lowest build .mypy_cache .ruff_cache .hypothesis *.egg-info

# Pinned versions and the package are resolved together, so torch is fetched once, in the version CI tests.
$(STAMP): requirements-ci.txt pyproject.toml
	@[ -x $(BIN)/pip ] || ./.ci/make_venv .venv
	$(BIN)/python -m pip install --quiet --requirement requirements-ci.txt --editable '.[zoo,dev]'
	@touch $@

# What the benchmarks compare with. Liger and lucidrains name torch without a version that would fit ours.
$(BENCH_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	@touch $@

# The packages of the second zoo are installed as they are listed: some name a torch of their own.
$(ZOO_STAMP): $(STAMP)
	$(BIN)/python -c 'import tomllib; print("\n".join(tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["zoo2"]))' > .venv/zoo2.txt
	$(BIN)/python -m pip install --quiet --no-deps --requirement .venv/zoo2.txt
	@touch $@

# TRL and what it needs, for the recipes that `make test` leaves out.
$(RECIPES_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --requirement requirements-ci.txt --editable '.[recipes]'
	@touch $@

$(DOCS_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	@touch $@

$(LOWEST_STAMP): requirements-lowest.txt pyproject.toml
	[ -x .venv-lowest/bin/pip ] || ./.ci/make_venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --requirement requirements-lowest.txt --editable '.[zoo,dev]'
	@touch $@
