# All targets run in .venv, created on first use. `make help` lists the targets.

SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PLATFORM := $(shell uname -s)-$(shell uname -m)
# The first supported interpreter on the path; override with `make PYTHON=/path/to/python`.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; exit; }; done)
DEMO := runs/demo
# TORCH=cpu: the CPU build of torch without CUDA libraries, by version ranges instead of pins.
ifdef TORCH
export UV_TORCH_BACKEND := $(TORCH)
endif

.PHONY: help setup demo test mutants lint format docs dist bench lock clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-7s %s\n", $$1, $$2}' Makefile

setup: $(READY)  ## create .venv, pinned by hashes on Linux x86-64; TORCH=cpu: without CUDA

$(READY): requirements/linux-x86_64.txt requirements/uv.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; none was found. Install one, or: make PYTHON=/path/to/python"; exit 2; }
	"$(PYTHON)" -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
ifeq ($(PLATFORM)$(TORCH),Linux-x86_64)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements/linux-x86_64.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
else
	$(BIN)/uv pip install --quiet --python $(BIN)/python -e '.[numba,video,mesh,viewer,hub,tensorboard,raster,slurm,search]' \
		--group dev --group docs
endif
	@touch $@

demo: $(READY)  ## train, evaluate and compare four generators on procedural data, in minutes
	@test -f data/synth32.zip || $(BIN)/gan3d data synth data/synth32.zip
	$(BIN)/gan3d sweep run demo_one_seed --root $(DEMO)
	$(BIN)/gan3d bench $(DEMO) --quick
	$(BIN)/gan3d report $(DEMO)

test: $(READY)  ## run the tests
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

mutants: $(READY)  ## list faults in the core that the tests miss (about an hour)
	rm -rf build/mutants && mkdir -p build/mutants
	git ls-files -z | xargs -0 cp --parents -t build/mutants
	cd build/mutants && export PATH="$(CURDIR)/$(BIN):$$PATH" PYTHONPATH=. OMP_NUM_THREADS=1 && \
		cr() { uv tool run --quiet --from 'cosmic-ray==8.7.0' "$$@"; } && \
		cr cosmic-ray init tests/mutants.toml session.sqlite && \
		cr cr-filter-operators session.sqlite tests/mutants.toml && \
		cr cosmic-ray baseline tests/mutants.toml && \
		cr cosmic-ray exec tests/mutants.toml session.sqlite && \
		cr cr-report --surviving-only --show-diff session.sqlite

lint: $(READY)  ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)  ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(READY)  ## build the documentation with an API reference into build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

dist: $(READY)  ## build the wheel and the source distribution into dist
	rm -rf dist
	$(BIN)/uv build --quiet

bench: $(READY)  ## benchmark the demo's presets; EG3D=CLONE compares with the official code
	$(BIN)/gan3d bench demo/triplane demo/voxel demo/nerf_mlp demo/image2d --root runs
	@test -z "$(EG3D)" || $(BIN)/gan3d bench --against "$(EG3D)" --out runs/bench/against.json

lock: $(READY)  ## pin the newest versions that pyproject.toml allows
	$(BIN)/uv pip compile --quiet --upgrade --universal --generate-hashes --no-annotate --no-header --no-emit-index-url \
		--python-version 3.11 --group dev --group docs --all-extras pyproject.toml -o requirements/linux-x86_64.txt
	echo uv | $(BIN)/uv pip compile --quiet --upgrade --generate-hashes --no-annotate --no-header --no-emit-index-url \
		--python-version 3.11 - -o requirements/uv.txt

clean:  ## remove the environment and caches, not data and runs
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build dist *.egg-info
