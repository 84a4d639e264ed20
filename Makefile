# Works on a machine that has Python >= 3.11, make and nothing else.
PYTHON ?= python3
VENV   ?= .venv
OUT    ?= runs/quickstart
SEED   ?= 0
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: quickstart test test-slow lint clean
quickstart: $(READY)
	$(BIN)/clip-jax sweep run --config=sweeps/quickstart.py --dir=$(OUT) --base.seed=$(SEED)

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist=loadfile -m "not slow"

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(READY): pyproject.toml requirements/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "clip-jax needs Python 3.11 or newer; say which with make PYTHON=..."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]" -c requirements/constraints.txt
	@touch $@

clean:
	rm -rf $(VENV) .cache .pytest_cache .ruff_cache .mypy_cache
