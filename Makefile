# Two commands matter: `make demo` and `make test`. Everything they need they install into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv

.DEFAULT_GOAL := help
.PHONY: help install demo demo-llm up test test-real check bench lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/' | expand -t 14

$(UV): bootstrap.lock
	@echo "· creating $(VENV)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r bootstrap.lock
	@touch $(UV)

$(VENV)/installed: $(UV) requirements.lock pyproject.toml
	@echo "· installing locked packages (about 1 GB with the drift report; a minute or two)"
	@$(UV) pip sync --python $(BIN)/python --require-hashes requirements.lock
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

install: $(VENV)/installed ## create .venv with everything locked

demo: install ## start everything on embedded defaults, drive it as an agent would, tell the story
	@$(BIN)/python -m examples.demo

up: install ## the same parts, left running; prints URLs, a token and three commands to try
	@$(BIN)/python -m examples.demo up

test: install ## run the tests; absent real components are skipped and named
	@$(BIN)/python -m pytest

check: install ## format, lint, types, fast tests
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q -x tests/unit tests/architecture tests/properties tests/vectors

lock: $(UV) ## resolve pyproject.toml again into requirements.lock
	@$(UV) pip compile pyproject.toml --quiet --universal --python-version 3.11 --extra mcp --extra drift \
		--group demo --group dev --generate-hashes --no-annotate --no-header -o requirements.lock
	@printf 'uv==%s\n' "$$($(UV) --version | cut -d' ' -f2)" | $(UV) pip compile - --quiet --universal --python-version 3.11 \
		--generate-hashes --no-annotate --no-header -o bootstrap.lock
