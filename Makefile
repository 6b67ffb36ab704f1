# `make serve` needs Python 3.11 or newer, make, and the package index that pip is set to; everything else comes into .venv.

PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check --no-input
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help serve test check bench soak clean

# The engines of the model that comes along, which the server runs: made once, and made again when the model has changed,
# or the packages that compute it.
ENGINES := model_repository/retouch-tiny.denoiser/1/manifest.json
MODEL := $(wildcard embedded_model/checkpoint/*/*) serve/families/pixel_edit.py serve/families/pixel_edit_unet.py

help:
	@echo 'make serve   install what the server needs, once, and start it (ARGS="--port 8080" for options)'
	@echo 'make test    run all tests (ARGS="tests/unit -x" for options)'
	@echo 'make check   formatting, lint, types and import rules'
	@echo 'make bench   measure all that the project promises, into benchmarks/results (ARGS="--runs 1" for one run of each)'
	@echo 'make soak    30 minutes at saturation: errors, and how the memory of each process grows'
	@echo 'make clean   remove the installation and the caches'
	@echo
	@echo 'PYTHON=python3.12 chooses the Python that the installation is made with.'

serve: $(VENV)/installed-serve $(ENGINES)
	@exec $(VENV)/bin/retouch serve $(ARGS)

# Two processes whose threads wait for each other, on two cores that a cluster shares with them, would starve it.
test: $(VENV)/installed-dev $(ENGINES)
	@OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(VENV)/installed-dev
	@$(VENV)/bin/ruff check
	@$(VENV)/bin/ruff format --check
	@$(VENV)/bin/basedpyright
	@$(VENV)/bin/lint-imports

bench: $(VENV)/installed-bench $(ENGINES)
	@$(VENV)/bin/python -m benchmarks.suite $(ARGS)

soak: $(VENV)/installed-bench $(ENGINES)
	@$(VENV)/bin/python -m benchmarks.soak --out benchmarks/results $(ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A half-made folder, or one whose Python has gone, is made anew.
define make_venv
	@command -v "$(PYTHON)" >/dev/null || { echo "Retouch needs Python 3.11 or newer, and there is no $(PYTHON); install it, or name one with PYTHON=..." >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Retouch needs Python 3.11 or newer, and $(PYTHON) is $$("$(PYTHON)" -V 2>&1); name another with PYTHON=..." >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) lacks its venv module; Debian and Ubuntu have it in the package python3-venv" >&2; exit 1; }
	@$(VENV)/bin/python -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv --clear $(VENV)
endef

$(VENV)/installed-serve: pyproject.toml constraints.txt
	$(make_venv)
	@echo 'Installing the server into $(VENV); the first time takes some minutes, mostly for PyTorch.'
	@$(PIP) install -qq --constraint constraints.txt --editable .
	@touch $@

$(ENGINES): $(MODEL) $(VENV)/installed-serve
	@$(VENV)/bin/retouch build-engines
	@touch $@

$(VENV)/installed-dev: pyproject.toml constraints.txt
	$(make_venv)
	@echo 'Installing the server and its test tools into $(VENV); the first time takes some minutes, mostly for PyTorch.'
	@$(PIP) install -qq --constraint constraints.txt --editable '.[dev]'
	@touch $(VENV)/installed-serve $@

$(VENV)/installed-bench: pyproject.toml constraints.txt
	$(make_venv)
	@echo 'Installing the server and what draws plots into $(VENV).'
	@$(PIP) install -qq --constraint constraints.txt --editable '.[bench]'
	@touch $(VENV)/installed-serve $@
