# The versions that `make setup` installs stand in pyproject.toml, each with its reason.
PYTHON ?= python3
STACK ?= openmmlab

VENV_openmmlab = .venv
VENV_onedl = .venv-onedl
VENV ?= $(VENV_$(STACK))
ifeq ($(VENV),)
$(error STACK is openmmlab or onedl, not '$(STACK)')
endif
PY = $(VENV)/bin/python
PIP = $(PY) -m pip --disable-pip-version-check
INSTALLED = $(VENV)/.acon_mm-installed

DEMO_CONFIG = configs/detection/retinanet_r18-metaaconc_fpn_6e_digits.py
DEMO_DIR = work_dirs/demo

.PHONY: help setup demo test lint clean docs

help:
	@echo "make setup   environment with everything installed in $(VENV) (the first time about 10 minutes)"
	@echo "make demo    train RetinaNet-R18 with MetaAconC on handwritten digits, test it, paint its detections"
	@echo "make test    ruff and the whole test suite"
	@echo "make lint    ruff alone"
	@echo "make docs    the documentation as a site in build/site"
	@echo "make clean   remove the demo's data and results, build products and caches; environments stay"
	@echo "Each sets up what it needs. PYTHON=$(PYTHON) makes the environment; STACK=openmmlab or onedl goes in."

setup: $(INSTALLED)

# The stamp comes last, so a set-up that was interrupted goes on where it was: pip skips what is there.
$(INSTALLED): pyproject.toml setup.py $(wildcard acon_mm/ops/csrc/*)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "$(PYTHON) must be Python 3.11 or later: make PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	    { echo "$(PYTHON) has no venv module: install it (Debian: python3-venv) or make PYTHON=/path/to/python" >&2; exit 1; }
	@$(PIP) --version >/dev/null 2>&1 || { echo "Making $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "Installing torch and what mmcv compiles with"
	@$(PIP) install --quiet --editable '.[bootstrap]'
	@echo "Compiling our kernels, installing the $(STACK) stack; where no wheel of mmcv is cached, it is compiled (6 to 11 minutes on two cores)"
	@MAX_JOBS=$${MAX_JOBS:-$$(nproc)} $(PIP) install --quiet --no-build-isolation --editable '.[$(STACK),sample,tests]'
	@touch $@

demo: setup
	$(PY) -m acon_mm.datasets
	$(PY) tools/train.py $(DEMO_CONFIG) --work-dir $(DEMO_DIR)
	$(PY) tools/test.py $(DEMO_CONFIG) "$$(cat $(DEMO_DIR)/last_checkpoint)" \
	    --work-dir $(DEMO_DIR) --show-dir $(DEMO_DIR)/detections
	@echo "The detections are painted in $(DEMO_DIR)/detections (left the truth, right what was found)."

lint: setup
	$(PY) -m ruff check
	$(PY) -m ruff format --check

test: lint
	$(PY) -m pytest

docs: setup
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

clean:
	rm -rf data/digits data/.digits.lock $(DEMO_DIR) work_dirs/benchmark build dist *.egg-info .pytest_cache .ruff_cache
	find acon_mm configs tests tools -name __pycache__ -prune -exec rm -rf {} +
