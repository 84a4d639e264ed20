# Works on a machine that has Python >= 3.11, make and nothing else.
PYTHON ?= python3
VENV   ?= .venv
OUT    ?= runs/quickstart
SEED   ?= 0
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
TORCH  := $(VENV)/torch
# a worker that is done takes tests of the other; one that dies ends the tests: given to a new one, its tests are never
# begun (pytest-xdist 3.8)
TWO    := -n 2 --dist=worksteal --max-worker-restart=0

.PHONY: quickstart test test-thorough test-slow test-whole-path torch fuzz soak test-slurm test-engines test-browser results notebooks coverage law-benchmarks compiled docs lint clean
quickstart: $(READY)
	$(BIN)/clip-jax sweep run --config=sweeps/quickstart.py --dir=$(OUT) --base.seed=$(SEED)

test: $(READY)
	$(BIN)/python -m pytest $(TWO) -m "not thorough and not slow and not slurm and not browser"

# what takes longer than a few seconds: twins in float64, several processes, faults, whole reports, every notebook
test-thorough: $(READY)
	$(BIN)/python -m pytest $(TWO) -m "thorough and not slow"

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow

# an environment with torch, open_clip and transformers (6 GB), in which the tests load what was exported
torch: $(TORCH)/.ready
$(TORCH)/.ready: requirements/torch.txt
	$(PYTHON) -m venv $(TORCH)
	$(TORCH)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/torch.txt
	@touch $@

# what a newcomer does: the commands of docs/tutorials/whole-path.md in an empty directory, by every Python of OTHERS that
# is here and by that of $(VENV); and whether every dependency has a wheel on the platforms that the documentation names
OTHERS := 3.11 or 3.13
test-whole-path: $(READY)
	@test -n "$$CLIP_JAX_TORCH_PYTHON" || $(MAKE) --no-print-directory torch \
	  || echo "test-whole-path: torch, open_clip and transformers could not be installed"
	OWN=$$($(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	if test -z "$$CLIP_JAX_TORCH_PYTHON" && test -e $(TORCH)/.ready; then \
	  export CLIP_JAX_TORCH_PYTHON=$(abspath $(TORCH))/bin/python; fi; \
	$(BIN)/python -m pytest -n 3 --max-worker-restart=0 -rs -m slow tests/test_whole_path.py tests/test_wheels.py \
	  -k "test_wheels or $(OTHERS) or $$OWN"

# damaged input for every reader of files from outside: 2,000 cases each, a few minutes; kept under out/fuzz where one fails
CASES ?= 2000
fuzz: $(READY)
	$(BIN)/python benchmarks/fuzz.py --cases=$(CASES) --seed=$(SEED)

# commands killed at random moments until they end by themselves: train 50 times, sweep, eval and icons 5 times each
soak: $(READY)
	$(BIN)/python benchmarks/soak.py --seed=$(SEED)

# On a real Slurm of two nodes on this machine: installed where root has apt-get, else the one that is there, else skipped.
test-slurm: $(READY)
	@if ! PATH="$$PATH:/usr/sbin:/sbin" command -v slurmctld >/dev/null && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; \
	then apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurm-wlm munge \
	  || echo "test-slurm: slurm-wlm and munge could not be installed"; fi
	$(BIN)/python -m pytest -rs -m slurm tests/slurm

# What Kubernetes would say to our jobs; its schemas are too large for every developer's environment.
test-engines: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[k8s]" -c requirements/constraints.txt
	$(BIN)/python -m pytest tests/sweep/launch

# clicks through a report in Debian's Chromium; installed only as root where apt is, else what is there is used
test-browser: $(READY)
	@here() { command -v chromium && command -v chromedriver; } >/dev/null; \
	root() { test "$$(id -u)" = 0 && command -v apt-get; } >/dev/null; \
	if ! here && root; then \
	  apt-get -qq update && apt-get -qq install -y --no-install-recommends chromium chromium-driver >/dev/null; \
	fi; \
	if ! here; then \
	  echo "test-browser: skipped: chromium and chromedriver are not here, and only root with apt can install them"; \
	  exit 0; \
	fi; \
	$(BIN)/python -c "import selenium" 2>/dev/null || $(BIN)/python -m pip install --quiet \
	  --disable-pip-version-check -e ".[browser]" -c requirements/constraints.txt || exit 1; \
	$(BIN)/python -m pytest -m browser tests/scaling/report/page

# the laws, figures and checklists of experiments/results again, from their tables; forecast.json is never touched
RESULTS := icons photos quickstart quickstart_seed100
results: $(READY)
	for d in $(RESULTS); do \
	  $(BIN)/clip-jax report experiments/results/$$d/runs.csv --out=out/results/$$d || exit $$?; \
	  for f in $$(cd experiments/results/$$d && git ls-files); do \
	    if [ -e out/results/$$d/$$f ]; then cp out/results/$$d/$$f experiments/results/$$d/$$f; fi; \
	  done; \
	done
	$(BIN)/python benchmarks/icons_forecast_again.py

# the notebooks with their tables and figures, as they are committed
notebooks: $(READY)
	$(BIN)/python notebooks/execute.py

# how often intervals and forecasts hold, in simulation: hours on 2 cores; benchmarks/README.md says where each committed
# table is
coverage: $(READY)
	$(BIN)/python benchmarks/prediction_coverage.py
	$(BIN)/python benchmarks/forecast_coverage.py --sweeps=400
	$(BIN)/python benchmarks/forecast_coverage.py --clouds=150
	$(BIN)/python benchmarks/through_coverage.py
	$(BIN)/python benchmarks/table_options_coverage.py
	$(BIN)/python benchmarks/fit_coverage.py
	$(BIN)/python benchmarks/fit_allocation.py
	$(BIN)/python benchmarks/fit_approaches.py
	$(BIN)/python benchmarks/fit_two_step.py
	$(BIN)/python benchmarks/fit_under.py
	$(BIN)/python benchmarks/fit_pooled.py
	$(BIN)/python benchmarks/curve_coverage.py
	$(BIN)/python benchmarks/curve_collapse.py

# speed, size and bias of fits, and the price of averaged bands; with TABLES=DIR also what needs published tables
# (benchmarks/README.md names their files)
TABLES ?=
law-benchmarks: $(READY)
	$(BIN)/python benchmarks/table_size.py
	$(BIN)/python benchmarks/fit_speed.py --cpu
	$(BIN)/python benchmarks/fit_frontier.py --clouds=300
	$(BIN)/python benchmarks/forecast_price.py --sweeps=200
	@test -n "$(TABLES)" || echo "law-benchmarks: back_tests, fit_forecast, table_examples and curve_tables need TABLES=DIR"
	test -z "$(TABLES)" || $(BIN)/python benchmarks/back_tests.py "$(TABLES)" --old=f1d4935
	test -z "$(TABLES)" || $(BIN)/python benchmarks/fit_forecast.py "$(TABLES)/clip_mammut_runs_datacomp_imagenet.csv"
	test -z "$(TABLES)" || $(BIN)/python benchmarks/table_examples.py "$(TABLES)"
	test -z "$(TABLES)" || $(BIN)/python benchmarks/curve_tables.py "$(TABLES)"

# what XLA makes of the step for GPUs that are not here, the tables of benchmarks/RESULTS.md: an hour or two on 2 cores
compiled: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[gpu-preflight]" -c requirements/constraints.txt
	$(BIN)/python benchmarks/compiled_step.py --targets=h100:1 --ways=before,default,unrolled --explain
	$(BIN)/python benchmarks/compiled_step.py --targets=h100:8,h200:1,b200:1

# the documentation site, into out/site: open out/site/index.html; a warning is an error
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

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
