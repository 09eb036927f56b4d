# The workbook's commands. Each prepares .venv first if it is not there; `make help` lists them.
SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
# The first Python that TensorFlow has wheels for; override with `make setup PYTHON=/path/to/python`.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$p && break; done)
# two plugins that no quick test needs, and that each process would wait for
SEVERAL := --numprocesses=auto --maxprocesses=4 --dist=worksteal -p no:nbval -p no:schemathesis
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup run test unit lint lab report refresh bench lock clean

help:  ## List the commands.
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /|/' | awk -F'|' '{printf "  make %-9s %s\n", $$1, $$2}'

$(STAMP): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "No Python 3.11, 3.12 or 3.13 was found. Install one, or name it: make setup PYTHON=/path/to/python3.11"; exit 2; }
	@echo "Preparing $(VENV) with $$($(PYTHON) --version): some 220 packages, a few minutes the first time."
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $(STAMP)

setup: $(STAMP)  ## Create .venv from the lock and register the kernel.
	@$(BIN)/python -m helpers kernel install --prefix $(VENV) > /dev/null  # it may have been removed since

run: setup  ## Execute the notebooks into outputs/ (ARGS="--profile quick" and the like are passed on).
	@$(BIN)/python -m helpers run $(ARGS)

test: setup  ## Run every check: unit, doctest, structure, papermill smoke, nbval.
	@$(BIN)/python -m ruff check .
ifdef ARGS
	@$(BIN)/python -m pytest $(ARGS)
else  # what is quick, then what is slow in two processes (a file in one of them), then by itself what measures time
	@$(BIN)/python -m pytest -m "not slow" $(SEVERAL) --cov=helpers --cov-report=
	@$(BIN)/python -m pytest -m "slow and not alone" --numprocesses=2 --dist=loadfile --durations=15 --cov=helpers --cov-append --cov-report=
	@$(BIN)/python -m pytest -m alone --durations=15 --cov=helpers --cov-append --cov-report=term:skip-covered --cov-fail-under=90
endif

unit: setup  ## Run the quick checks only (no kernel is started).
	@$(BIN)/python -m pytest -m "not slow" $(SEVERAL) $(ARGS)

lint: setup  ## Run ruff over package, tests and notebooks.
	@$(BIN)/python -m ruff check .

lab: setup  ## Open JupyterLab on the notebooks.
	@mkdir -p $(VENV)/share/jupyter/lab/settings  # Markdown opens as a page, and not as text
	@echo '{"@jupyterlab/docmanager-extension:plugin": {"defaultViewers": {"markdown": "Markdown Preview"}}}' \
		> $(VENV)/share/jupyter/lab/settings/overrides.json
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/jupyter lab --notebook-dir=. \
		--LabApp.default_url=/lab/tree/notebooks/README.md \
		--ServerApp.tornado_settings="{'websocket_max_message_size': 104857600}" $(ARGS)  # or an upload of 10 MiB ends all

report: setup  ## Render the notebooks of the last run (or the committed ones) as pages.
	@$(BIN)/python -m helpers report $(ARGS)

refresh: setup  ## Run the notebooks and commit-ready their outputs into notebooks/.
	@$(BIN)/python -m helpers refresh $(ARGS)

bench: setup  ## Measure side by side; prints ratios.
	@$(BIN)/python -m benchmarks $(ARGS)

lock:  ## Resolve the exact versions anew (needs uv).
	uv pip compile pyproject.toml --extra test --universal --no-strip-extras --generate-hashes --no-emit-index-url \
		--no-emit-find-links --python-version 3.11 -o requirements.lock

clean:  ## Remove outputs (not .venv).
	@find outputs -mindepth 1 ! -path outputs/README.md -delete
