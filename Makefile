# `make demo` and `make test` need Python 3.10 to 3.13 and a package registry, nothing else.
PYTHON ?= python3
BIN := .venv/bin
export OMP_WAIT_POLICY ?= passive

.PHONY: demo test test-slow test-all mutants lint format docs wheel clean

demo: .venv/installed  ## install, train a DCGAN on handwritten digits (a minute or two on two cores), and draw 64 of them
	@echo "make demo: trains a DCGAN on handwritten digits, a minute or two on two CPU cores"
	$(BIN)/gan-train experiment=demo
	$(BIN)/gan-sample ckpt=runs/demo mode.scale=4 out=runs/demo/digits.png
	@echo "Look at runs/demo/digits.png: no digit there exists. Real ones are in runs/demo/samples/reals.png."
	@echo "To type gan-train without its path, activate the environment: . .venv/bin/activate"

# Times are of two cores.
test: .venv/installed-dev  ## while you work, six minutes on two cores: all but slow tests, with every pair of options
	$(BIN)/pytest -n auto --dist worksteal -m "not slow and not product"

test-slow: .venv/installed-dev  ## the rest, about twenty minutes: processes, browsers, ONNX, how-tos, runs that are killed
	$(BIN)/pytest -n auto --dist worksteal -m "slow and not product"

test-all: .venv/installed-dev  ## both, every combination of model, loss, penalty and augmentation, and thousands of names
	GANDUEL_EXAMPLES=all $(BIN)/pytest -n auto --dist worksteal -m ""

mutants: .venv/installed-dev  ## which small changes of the code the tests notice: see docs/mutants.md; MUTANTS=--all for every one
	$(BIN)/python scripts/mutants.py $(MUTANTS)

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: .venv/installed-dev  ## the documentation, into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

wheel: .venv/installed-dev  ## builds it, and tries it where no checkout is near
	scripts/check_wheel.sh

clean:  ## what was built, not what was trained
	rm -rf .venv build dist site .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || \
		{ echo "error: PYTHON=$(PYTHON) is not Python 3.10 or newer; try make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml
	@echo "installing into .venv: on Linux 3.2 GB to download and 6 GB on the disk; 3 minutes, and the download"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

.venv/installed-dev: .venv/bin/python pyproject.toml
	@echo "installing into .venv, with what the tests need: on Linux 3.2 GB to download and 6 GB on the disk"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch .venv/installed $@
