# One virtual environment for everything; each target sets up what it needs.
#   make run                            the demo company, three months, from nothing to tiers with reasons
#   make run CONFIG=configs/cdnow.yaml  a real order history (it ships inside the package lifetimes)
#   make test                           every check
CONFIG ?= configs/demo.yaml
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: run test lint lock clean
.DEFAULT_GOAL := run

run: $(READY) $(if $(filter configs/demo.yaml,$(CONFIG)),data/demo.duckdb)
	$(BIN)/python pipelines/monthly.py --config $(CONFIG)

test: lint
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

data/demo.duckdb: | $(READY)
	$(BIN)/python pipelines/simulate.py --out $@

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("clv needs Python 3.11 or newer, found " + sys.version.split()[0] + ". Set PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv>=0.9,<1"
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock \
	  || $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@$(BIN)/python -c 'import lightgbm' 2>/dev/null || { \
	  echo 'LightGBM cannot start; it needs the OpenMP runtime. Debian and Ubuntu: apt-get install libgomp1' >&2; exit 1; }
	@touch $@

# Pinned versions with hashes, for all platforms and Python versions; names no index.
lock: $(READY)
	$(BIN)/uv pip compile pyproject.toml --extra dev --extra postgres --extra web --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-header --quiet --upgrade --output-file requirements.lock

clean:
	rm -rf .venv data models/mlflow.db* models/artifacts models/*.lock
