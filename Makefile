# Everything one does with a checkout. Bare `make` lists it.

PYTHON ?= python3
VENV   ?= .venv
# A video of your own for `make demo`.
CLIP   ?=
# For `make ablations`: clips and photos to train on, minutes of CPU time for each row, a config for more (TOML, YAML).
DATA    ?=
MINUTES ?= 20
CONFIG  ?=
# More arguments for the program behind a target: make test ARGS="-k bitstream", make bench ARGS="--json".
ARGS   ?=

ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
else
BIN := $(VENV)/bin
endif

.DEFAULT_GOAL := help
.PHONY: help env demo test lint format bench ablations grid gpu-check wheel clean distclean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

env: $(VENV)/.dev ## create .venv with cvcodec and all that its tests need

demo: $(VENV)/.demo ## encode, decode and measure a real clip; CLIP=video.mp4 for one of yours
	@$(BIN)/python benchmarks/demo.py $(if $(CLIP),--clip "$(CLIP)") $(ARGS)

test: lint ## lint, type check and tests
	$(BIN)/python -m pytest -n auto --maxprocesses 4 $(ARGS)

lint: $(VENV)/.dev ## ruff and mypy --strict
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

format: $(VENV)/.dev ## let ruff rewrite what it can
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

bench: $(VENV)/.demo ## speed of encode and decode on this machine, in Mpixel/s
	@$(BIN)/python benchmarks/speed.py $(ARGS)

ablations: $(VENV)/.demo ## the paper's Tables 6 and 7 at small scale: DATA=clips/ MINUTES=20 a row
	@$(BIN)/python benchmarks/ablations.py all $(CONFIG) $(if $(DATA),--data "$(DATA)") --minutes $(MINUTES) $(ARGS)

grid: $(VENV)/.demo ## docs/grid.jpg: frames of the demo clip as they are, by PCA and by our models
	@$(BIN)/python benchmarks/demo.py --fetch
	@$(BIN)/python benchmarks/grid.py --output docs/grid.jpg $(ARGS)

gpu-check: $(VENV)/.dev ## does your CUDA card compute what the CPU does; speed: benchmarks/gpu_run.py
	@$(BIN)/python -m pytest tests/gpu $(ARGS)

wheel: $(VENV)/.demo ## build dist/cvcodec-*.whl, weights included
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	@ls -l dist

clean: ## remove what builds and tests leave behind
	rm -rf dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find cvcodec tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## the same, and the environment and the demo's files
	rm -rf "$(VENV)" .demo

# The demo needs the program with its extras; tests need more. Each is set up once, and again when a pin changes.
$(VENV)/.demo: EXTRAS := lpips,plot
$(VENV)/.dev: EXTRAS := dev
$(VENV)/.demo $(VENV)/.dev: pyproject.toml constraints.txt .ci/setup_env.py
	@$(PYTHON) .ci/setup_env.py --venv "$(VENV)" --extras "$(EXTRAS)"
	@touch $@
