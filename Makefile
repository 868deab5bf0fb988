# The versions that `make setup` installs stand in pyproject.toml, each with its reason.
STACK ?= openmmlab

# Each stack: its environment, its Python, the oldest Python that its pins install on, and the extras of pyproject.toml:
# what mmcv compiles with, the OpenMMLab packages, and the rest.
VENV_openmmlab = .venv
PYTHON_openmmlab = python3
NEEDS_openmmlab = 3.11
EXTRAS_openmmlab = bootstrap openmmlab sample,tests,triton

VENV_onedl = .venv-onedl
PYTHON_onedl = python3
NEEDS_onedl = 3.11
EXTRAS_onedl = bootstrap onedl sample,tests,triton

VENV_oldest = .venv-oldest
PYTHON_oldest = python3.9
NEEDS_oldest = 3.9
EXTRAS_oldest = bootstrap-oldest oldest sample-oldest,tests-oldest

VENV_newest = .venv-newest
PYTHON_newest = python3.12
NEEDS_newest = 3.12
EXTRAS_newest = bootstrap-newest onedl sample,tests

ifeq ($(VENV_$(STACK)),)
$(error STACK is openmmlab, onedl, oldest or newest, not '$(STACK)')
endif
VENV ?= $(VENV_$(STACK))
PYTHON ?= $(PYTHON_$(STACK))
BOOTSTRAP = $(word 1,$(EXTRAS_$(STACK)))
MM = $(word 2,$(EXTRAS_$(STACK)))
REST = $(word 3,$(EXTRAS_$(STACK)))
PY = $(VENV)/bin/python
PIP = $(PY) -m pip --disable-pip-version-check
INSTALLED = $(VENV)/.acon_mm-installed

DEMO_CONFIG = configs/detection/retinanet_r18-metaaconc_fpn_6e_digits.py
DEMO_DIR = work_dirs/demo

# Processes that the tests run in, each with one thread.
WORKERS ?= 2
# worksteal: neighbours share fixtures, and a worker that has finished takes tests of another.
# With old packages, warnings are of those packages among themselves.
WARNINGS_oldest = -W default
PYTEST = $(PY) -m pytest -n $(WORKERS) --dist worksteal $(WARNINGS_$(STACK))

.PHONY: help setup demo test test-fast test-faults test-gpu lint typecheck docs clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "Each target sets up what it needs. PYTHON=$(PYTHON) makes the environment; STACK=openmmlab, onedl, oldest or newest goes in."

setup: $(INSTALLED) ## make the environment (.venv) with everything installed (the first time about 5 minutes)

# The stamp comes last, so a set-up that was interrupted goes on where it was: pip skips what is there.
$(INSTALLED): pyproject.toml setup.py $(wildcard acon_mm/ops/csrc/*)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < tuple(map(int, "$(NEEDS_$(STACK))".split("."))))' || \
	    { echo "the stack $(STACK) needs Python $(NEEDS_$(STACK)) or later: make STACK=$(STACK) PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	    { echo "$(PYTHON) has no venv module: install it (Debian: python3-venv) or make PYTHON=/path/to/python" >&2; exit 1; }
	@$(PIP) --version >/dev/null 2>&1 || { echo "Making $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "Installing torch and what mmcv compiles with"
	@ACON_MM_KERNELS=0 $(PIP) install --quiet --editable '.[$(BOOTSTRAP)]'
	@MAX_JOBS=$${MAX_JOBS:-$$(nproc)} $(PY) .dev_scripts/install_mmcv.py $(MM)
	@echo "Installing the rest of the $(STACK) stack, and compiling our kernels"
	@$(PIP) install --quiet --no-build-isolation --editable '.[$(MM),$(REST)]'
	@touch $@

demo: setup ## train RetinaNet-R18 with MetaAconC on handwritten digits, test it, draw its detections
	$(PY) -m acon_mm.datasets
	$(PY) tools/train.py $(DEMO_CONFIG) --work-dir $(DEMO_DIR)
	$(PY) tools/test.py $(DEMO_CONFIG) "$$(cat $(DEMO_DIR)/last_checkpoint)" \
	    --work-dir $(DEMO_DIR)
	$(PY) tools/analysis_tools/draw_predictions.py $(DEMO_CONFIG) "$$(cat $(DEMO_DIR)/last_checkpoint)" \
	    --out $(DEMO_DIR)/detections.png

# ruff and mypy: with the default stack alone. Their pins need a newer Python than that of the stack oldest.
test: $(if $(filter openmmlab,$(STACK)),lint typecheck,setup) ## ruff, mypy and all tests (11 minutes on two cores)
	$(PYTEST) -m "not faults"

test-fast: setup ## the tests that are not marked slow (1.5 minutes on two cores)
	$(PYTEST) -m "not slow"

test-faults: setup ## plant faults (kills, damage, NaN, bad values) and count how they end (5 minutes on two cores)
	$(PYTEST) tests/faults

test-gpu: setup ## the tests that need a GPU: AMP, SyncBN, nccl, the Triton kernels; skipped where there is none
	$(PY) -m pytest -m gpu -rs

lint: setup ## ruff: rules and format
	$(PY) -m ruff check
	$(PY) -m ruff format --check

typecheck: setup ## mypy: the types of acon_mm
	$(PY) -m mypy

docs: setup ## build the documentation as a site in build/site
	$(PY) -m mkdocs build --strict

clean: ## remove the demo's data and results, build products and caches; environments stay
	rm -rf data/digits data/.digits.lock $(DEMO_DIR) work_dirs/benchmark build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find acon_mm configs tests tools -name __pycache__ -prune -exec rm -rf {} +
