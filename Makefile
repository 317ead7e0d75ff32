# make run: opens the workbench.  make test: all tests.  make check: ruff, mypy and the fast tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
# The tests that need neither browser nor real model go file by file to two workers. With a card there is none: tests measure its memory.
WORKERS ?= $(if $(shell command -v nvidia-smi 2>/dev/null),0,2)
PYTEST = $(BIN)/python -m pytest
TOGETHER = -n $(WORKERS) --dist loadfile --no-loadscope-reorder
# Where the tests' results are to be written for a program: REPORTS=folder makes together.xml and alone.xml.
REPORTS ?=
# What Python compiled is kept, whatever the environment says: every worker and every process that a test starts reads it.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run test test-together test-alone check model install install-dev clean
.NOTPARALLEL:
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

test: test-together test-alone

# The browser and the real model use both cores and are waited for: nothing runs beside them. (5: ARGS chose none of these tests.)
test-together: install-dev model
	$(PYTEST) $(TOGETHER) -m "not real_model and not browser" $(if $(REPORTS),--junitxml=$(REPORTS)/together.xml) $(ARGS) $(if $(ARGS),|| test $$? = 5)

test-alone: install-dev model
	$(PYTEST) -m "real_model or browser" $(if $(REPORTS),--junitxml=$(REPORTS)/alone.xml) $(ARGS) $(if $(ARGS),|| test $$? = 5)

check: install-dev
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PYTEST) -q $(TOGETHER) -m "not real_model and not browser and not slow" $(ARGS)

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
