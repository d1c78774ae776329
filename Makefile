# A fresh machine needs Python 3.11 only: the targets create .venv and install into it.

PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: help demo test test-all check site docs bench bench-score bench-tabular bench-ablation bench-bus bench-mutations \
	bench-false-alarms bench-discoveries bench-parity bench-fits bench-rank bench-labels bench-lies bench-health notebooks \
	clean

help:  ## Show this help
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

demo: .venv/demo  ## Find potholes in real drives that the model never saw (under 3 minutes)
	$(BIN)/anomalyvae run pipelines/potholes.toml

test: check  ## Lint, type-check, run the quick tests, build the documentation (about 5 minutes)
	$(PYTEST) -n 2 -m "not slow"
	@$(MAKE) --no-print-directory site

test-all: check  ## The same with all tests: slow ones and notebooks, too
	$(PYTEST) -n 2
	@$(MAKE) --no-print-directory site

check: .venv/dev  ## Lint, type-check, and check who imports whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

site: .venv/dev  ## Build the documentation
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir build/site

docs: .venv/dev  ## Build the documentation and show it at http://127.0.0.1:8000
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

# The folder that holds the collections of tables: adbench, oddbench, tep.
DATA ?= ../shared/data

bench: .venv/dev  ## Speed of training and scoring, compared with PyOD's VAE in the same process
	$(BIN)/python pipelines/benchmarks/speed.py

bench-tabular: .venv/dev  ## Detection on tables, three collections: make bench-tabular DATA=FOLDER (that holds them)
	$(BIN)/python pipelines/benchmarks/tabular.py $(DATA)

bench-labels: .venv/dev  ## Anomalies found with few labels on those tables, compared with active learners
	$(BIN)/python pipelines/benchmarks/labels.py $(DATA)

bench-lies: .venv/dev  ## Challengers that learned from false verdicts, refused by the gate, and from true ones
	$(BIN)/python pipelines/benchmarks/lies.py $(DATA)

bench-fits: .venv/dev  ## Seconds of whole fits with default settings, compared with PyOD's VAE
	$(BIN)/python pipelines/benchmarks/fits.py

bench-score: .venv/dev  ## Score a folder of 5 million rows, compared with pyarrow, onnxruntime and PyOD's VAE
	$(BIN)/python pipelines/benchmarks/score.py

bench-ablation: .venv/dev  ## Detection on those tables without each part of the detector in turn
	$(BIN)/python pipelines/benchmarks/ablation.py $(DATA)

bench-health: .venv/dev  ## False grades of sensor health per hour on healthy drives, and the faults that are found
	$(BIN)/python pipelines/benchmarks/health.py

bench-bus: .venv/dev  ## Attacks on a vehicle bus without a database, and which identifier is to blame
	$(BIN)/python pipelines/benchmarks/bus.py

bench-mutations: .venv/dev  ## Read 10,000 damaged files: each is read right, or refused by name
	$(BIN)/python pipelines/benchmarks/mutations.py

bench-false-alarms: .venv/dev  ## The share of new normal rows that are flagged, where 5 % is promised
	$(BIN)/python pipelines/benchmarks/false_alarms.py

bench-discoveries: .venv/dev  ## False and true discoveries of outliers_among, on simulated tables
	$(BIN)/python pipelines/benchmarks/discoveries.py

bench-rank: .venv/dev  ## Ranks of 77 drives: those named for an event, and drives with faults put in
	$(BIN)/python pipelines/benchmarks/rank.py

bench-parity: .venv/dev  ## Export 300 generated pipelines, and compare each file's scores with its model's
	$(BIN)/python pipelines/benchmarks/parity.py

notebooks: .venv/dev  ## Run the notebooks, and store their pictures
	$(BIN)/python notebooks/pictures.py

clean:  ## Remove the environment, caches and build outputs
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache build dist

# Stamp files: install again only after a change of the requirements.
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
