# `make demo` and `make test` are all that a fresh machine with Python 3.11 needs; each makes .venv and installs into it.

PYTHON ?= python3
BIN := .venv/bin
# Two workers on two cores: each computes with one thread.
PYTEST := SCIPY_ARRAY_API=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: help demo test test-all check site docs bench bench-score bench-tabular bench-ablation clean

help:  ## Show this help
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

demo: .venv/demo  ## Find real potholes in drives that the model has not seen (under 3 minutes)
	$(BIN)/anomalyvae run pipelines/potholes.toml

test: check  ## Lint, types, imports, tests but the slow ones, documentation (about 5 minutes after installing)
	$(PYTEST) -n 2 -m "not slow"
	@$(MAKE) --no-print-directory site

test-all: check  ## The same with the slow tests and the notebooks
	$(PYTEST) -n 2
	@$(MAKE) --no-print-directory site

check: .venv/dev  ## Lint, types and imports alone
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

site: .venv/dev  ## Build the documentation
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir build/site

docs: .venv/dev  ## Build the documentation and show it at http://127.0.0.1:8000
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

DATA ?= ../shared/data/adbench

bench: .venv/dev  ## Training and scoring speed against PyOD's VAE, in one process
	$(BIN)/python pipelines/benchmarks/speed.py

bench-tabular: .venv/dev  ## Detection on tables beside PyOD's detectors: make bench-tabular DATA=folder of .npz files
	$(BIN)/python pipelines/benchmarks/tabular.py $(DATA)

bench-score: .venv/dev  ## A folder of 5 million rows scored, beside pyarrow, onnxruntime and PyOD's VAE
	$(BIN)/python pipelines/benchmarks/score.py

bench-ablation: .venv/dev  ## What each ingredient of the detector gives on those tables
	$(BIN)/python pipelines/benchmarks/ablation.py $(DATA)

clean:  ## Remove the environment and what tools left behind
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache build dist

# Stamps: an install happens again only when what it installs has changed.
.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/demo: pyproject.toml constraints.txt | .venv/bin/python
	@echo "Installing anomalyvae into .venv (a minute or two, once)"
	$(INSTALL) -e '.[report]'
	@touch $@

.venv/dev: pyproject.toml constraints.txt | .venv/bin/python
	@echo "Installing anomalyvae and its development tools into .venv (a few minutes, once)"
	$(INSTALL) -e '.[dev]'
	@touch $@
