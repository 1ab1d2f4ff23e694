# Everything runs in .venv, which is made when it is needed and renewed when pyproject.toml changes.
#   PYTHON=python3.12     the interpreter that .venv is made with
#   PIP_FLAGS="..."       for pip install, e.g. an index with processor-only builds of PyTorch
#   PYTEST_FLAGS="..."    for pytest, e.g. -k schedule
#   TESTS_AT_ONCE=4       test modules side by side; three keep two processors busy, as tests of processes mostly wait for them
#   UI_FLAGS="..."        for python -m pipeline.ui, e.g. --port 5001

PYTHON ?= python3
PIP_FLAGS ?=
PYTEST_FLAGS ?=
TESTS_AT_ONCE ?= 3
UI_FLAGS ?=
VENV := .venv
PYTEST = $(VENV)/bin/python -m pytest -n $(TESTS_AT_ONCE) --no-loadscope-reorder
INSTALLED := $(VENV)/.installed
# DVC's stages call "python": it has to be this one.
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# Containers often set it. Then each of the many processes would compile all of PyTorch, Ray and MLflow for itself, again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup reproduce test quick lint ui

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(INSTALLED) ## Make .venv and install the project into it

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is too old: Python 3.11 or newer is needed. Name one with make PYTHON=python3.12" >&2; exit 2; }
	@# Python compiles each module when it is first imported; compiling all of them beforehand takes two minutes.
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --disable-pip-version-check --no-compile $(PIP_FLAGS) -e '.[dev,video,photo]'
	@# What nearly every process imports is compiled now, once: tests side by side would each compile it for themselves, and
	@# Ray's own processes might not be there in the half minute that Ray gives them.
	$(VENV)/bin/python -W ignore -c "import mlflow.server.fastapi_app, ray.train.torch, ray.tune, torch._inductor.config"
	$(VENV)/bin/python -W ignore -c "import compileall, os, ray; \
		[compileall.compile_dir(os.path.join(ray.__path__[0], part), quiet=2) for part in ('_private', 'autoscaler', 'dashboard')]"
	@touch $@

# A project that has trained nothing yet measures for itself: the numbers that came with it are set aside. Plain dvc repro
# would believe them, and train nothing. Without git, as in a release's archive, DVC is told to do without it, too.
reproduce: setup ## Train and evaluate everything that params.yaml asks for; tables in results/
	@$(VENV)/bin/python -m pipeline.set_aside
	$(VENV)/bin/dvc repro

test: setup ## Run all tests
	$(PYTEST) $(PYTEST_FLAGS)

quick: setup ## Run the tests that take seconds
	$(PYTEST) -m "not slow" $(PYTEST_FLAGS)

lint: setup ## Check the style
	$(VENV)/bin/ruff check .

ui: setup ## Show all runs in a browser: MLflow on 127.0.0.1, at port 5000 or UI_FLAGS="--port 5001"
	$(VENV)/bin/python -m pipeline.ui $(UI_FLAGS)
