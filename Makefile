# make run: opens the workbench.  make test: all tests.  make check: ruff, mypy and the fast tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: run test check model install install-dev clean
.DELETE_ON_ERROR:

$(VENV)/.installed: requirements.txt requirements-gpu.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "The workbench needs Python 3.11 or newer: make run PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	if command -v nvidia-smi >/dev/null; then $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-gpu.txt; fi
	touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev

model: install
	$(BIN)/python -m workbench fetch-demo-model

# Another model: MODEL=path-or-hub-name make run
run: install
ifeq ($(filter-out demo,$(MODEL)),)
	$(BIN)/python -m workbench fetch-demo-model >/dev/null
endif
	$(BIN)/python app.py $(ARGS)

test: install-dev model
	$(BIN)/python -m pytest $(ARGS)

check: install-dev
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -m "not real_model and not browser and not slow" $(ARGS)

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
