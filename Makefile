# `make demo` and `make test` do all the set-up they need; a second call installs nothing.
PYTHON ?= python3
BIN := .venv/bin
STUDY ?= quickstart
JOBS ?= $(shell nproc)
BENCH ?= .work/bench.json

.PHONY: demo test check fast format lint types specs docs claims setup bench clean

demo: .venv/ready ## generate, pretrain, probe, report: the quickstart study
	@$(BIN)/python -m engine study $(STUDY)
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/dvc repro
	@$(BIN)/python -m engine show

test: check ## everything that CI runs

check: lint types specs
	$(BIN)/pytest -n auto --dist loadfile

fast: .venv/ready ## the tests without the slow ones
	$(BIN)/pytest -n auto --dist loadfile -m "not slow"

lint: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

types: .venv/ready
	$(BIN)/mypy

specs: .venv/ready
	$(BIN)/python -m engine validate

docs: .venv/ready ## the documentation, into .work/site; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The study that was active is again when all have run. What DVC has in its cache does not run again: a stopped call goes on.
claims: .venv/ready ## the small studies, and whether what docs/claims.md calls reproduced still is
	@export PATH="$(CURDIR)/$(BIN):$$PATH"; active=$$(python -m engine study); trap "python -m engine study $$active" EXIT; \
	for file in specs/studies/mini/*.yaml; do \
	  python -m engine study mini/$$(basename $$file .yaml) && python -m engine repro --jobs $(JOBS) || exit 1; \
	done
	@$(BIN)/python -m engine claims --check docs/claims.md

format: .venv/ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

setup: .venv/ready

bench: .venv/bench ## ours against kornia, torchvision, Pillow and lightly; docs/benchmarks has the full run
	$(BIN)/python -m benchmarks --quick --json $(BENCH)

# torch and torchvision come first and alone: only together does pip take a matching pair.
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt torch torchvision
	$(BIN)/python -m pip install --quiet -c constraints.txt --editable '.[dev]'
	@touch $@

# The rivals are heavy and nobody else needs them.
.venv/bench: .venv/ready
	$(BIN)/python -m pip install --quiet -c constraints.txt --editable '.[dev,bench]'
	@touch $@

clean: ## remove what can be made again: scratch files and caches (never artifacts)
	rm -rf .work .pytest_cache .ruff_cache .mypy_cache .hypothesis
