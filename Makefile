# make demo       from nothing to a trained model that has predicted three clips
# make real       from the downloaded RAVDESS (DATA=its folder) to a model of real voices; CLIP=a recording of your own
# make test       unit and integration tests (minutes); make test-unit runs only the unit tests
# make space      a web page to try the trained model
# make style      format and fix the code; make quality only checks it
# Each target builds the environment it needs; a second call reuses it.

PYTHON ?= python3
BIN := .venv/bin
# The demo's two registry assets are pinned by hash in training/demo/assets.txt, the packages by version in constraints.txt.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# Two processes with one thread each share the tests; the one that finishes first takes over tests of the other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal

.PHONY: demo demo-study real space test test-unit test-space test-slow test-gpu test-versions quality style clean help

help:
	@sed -n 's/^# \(make.*\)/\1/p' Makefile

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "EGMF needs Python 3.11 or newer; call make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing packages into .venv (a few minutes and gigabytes the first time) ..."
	$(INSTALL) --editable '.[dev]'
	touch $@

demo: .venv/installed
	$(BIN)/python -m training.demo $(DEMO_OPTIONS)

# Three seeds, and the variants that training/results/README.md compares: hours on two cores. Finished runs are reused.
demo-study: .venv/installed
	$(BIN)/python -m training.demo.study

# REAL_OPTIONS: any option of `python -m training.real`, such as --audio FOLDER for a copy of Whisper base.
real: .venv/installed
	@test -n '$(DATA)' || { echo 'Give the folder with the unpacked archives of RAVDESS: make real DATA=FOLDER'; exit 1; }
	$(BIN)/python -m training.real --data '$(DATA)' $(if $(CLIP),--clip '$(CLIP)') $(REAL_OPTIONS)

test: .venv/installed
	$(PYTEST) -m "not slow and not gpu"

test-unit: .venv/installed
	$(PYTEST) -m "not integration and not slow and not gpu"

# The web page for the model that `make demo` trained; MODEL=... for another checkpoint.
space: .venv-space/installed
	.venv-space/bin/python hub_cards/space/app.py --model_name_or_path $(or $(MODEL),runs/demo)

# Tests the page's server, and the page itself in a headless Chromium if one is installed.
test-space: .venv-space/installed
	.venv-space/bin/python -m pytest $(wildcard tests/hub_cards/test_space*.py)

# A separate environment, because Gradio requires an older Pillow.
.venv-space/installed: pyproject.toml constraints.txt
	test -x .venv-space/bin/python || $(PYTHON) -m venv .venv-space
	grep -v '^pillow==' constraints.txt > .venv-space/constraints.txt
	.venv-space/bin/python -m pip install --quiet --disable-pip-version-check \
		--constraint .venv-space/constraints.txt --editable '.[dev,browser]'
	touch $@

test-slow: .venv/installed
	$(BIN)/python -m pytest -m slow

test-gpu: .venv/installed
	$(BIN)/python -m pytest -m gpu

# The unit tests with the oldest and the newest versions that pyproject.toml allows, each in an environment of its own.
test-versions:
	$(PYTHON) tests/versions.py oldest
	$(PYTHON) tests/versions.py newest

quality: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

style: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .venv-space .venv-oldest .venv-newest .pytest_cache .ruff_cache *.egg-info
