# Needs make and Python 3.11 or newer with pip and venv; everything else goes into .venv, here in the repository.
# Each .venv/.NAME below is an empty file that says "the extra NAME is installed, as pyproject.toml asks for it":
# it is touched last, so an installation that failed or was interrupted is tried again.

PYTHON ?= python3
RECIPE ?= static_mnist-hvae-vampprior
FIGURES ?= loglik-naive loglik-products loglik-http pixelcnn
ARGS ?=

# Relative, and always `python -m`, so that the repository's own path may hold spaces.
python := .venv/bin/python
install := $(python) -m pip install
pytest := $(python) -m pytest --numprocesses 2 --dist loadfile

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help serve test test-all check check-all lint format train bench hooks clean

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

serve: .venv/.run ## Serve the checkpoints in model_store on port 8000, or on VAMP_PORT
	$(python) -m service

test: .venv/.test ## Run the tests that need no more than pip installs; ARGS="-k cache" picks some
	$(pytest) -m "not slow and not tools" $(ARGS)

test-all: .venv/.test ## Run every test; one that is skipped, say for want of Chromium, has failed
	$(pytest) --no-skips $(ARGS)

check: lint test ## Run all that must pass before a change goes in: lint, then test

check-all: lint test-all ## Run what CI runs: lint, then test-all

lint: .venv/.dev ## Check format, lint rules and types
	$(python) -m ruff format --check .
	$(python) -m ruff check .
	$(python) -m mypy

format: .venv/.dev ## Format the code and repair what ruff can repair
	$(python) -m ruff format .
	$(python) -m ruff check --fix .

train: .venv/.run ## Train the model of RECIPE, by default the paper's on static MNIST
	$(python) -m training train $(RECIPE) $(ARGS)

bench: .venv/.bench ## Measure FIGURES, by default those that take a minute; ARGS="--list" names all
	$(python) -m benchmarks $(FIGURES) $(ARGS)

hooks: .venv/.dev ## Run lint before each commit and test before each push
	$(python) -m pre_commit install

clean: ## Remove .venv, caches and build output; checkpoints, data and runs stay
	rm -rf .venv .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist *.egg-info
	find benchmarks service tests training vampprior -name __pycache__ -prune -exec rm -rf {} +

# Debian and Ubuntu leave ensurepip out of their python3, and venv then fails with a page of advice.
.venv/.pip:
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo >&2 'This needs Python 3.11 or newer, and "$(PYTHON)" is not. Name another: make PYTHON=python3.12 ...'; \
		exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
		echo >&2 '"$(PYTHON)" cannot create virtual environments. On Debian or Ubuntu: apt-get install python3-venv'; \
		exit 1; }
	"$(PYTHON)" -m venv --clear .venv
	$(install) --upgrade pip
	@touch $@

# One environment for the service and the training, so that what `make serve` installed also trains.
.venv/.run: .venv/.pip pyproject.toml
	$(install) --editable '.[service,training]'
	@touch $@

.venv/.bench: .venv/.pip pyproject.toml
	$(install) --editable '.[service,training,bench]'
	@touch .venv/.run $@

.venv/.test: .venv/.pip pyproject.toml
	$(install) --editable '.[service,training,test]'
	@touch .venv/.run $@

.venv/.dev: .venv/.pip pyproject.toml
	$(install) --editable '.[service,training,test,dev]'
	@touch .venv/.run .venv/.test $@
