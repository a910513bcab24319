# Everything runs in the active virtual environment or, where there is none, in .venv here.
BIN := $(if $(VIRTUAL_ENV),$(VIRTUAL_ENV)/bin,.venv/bin)
PYTHON ?= python3
PIP = $(BIN)/pip install --quiet --constraint constraints.txt

RACES = dpo reward kwise sft generate grpo ppo

.PHONY: quickstart test check bench bench-table bench-check parity docs clean

quickstart: $(BIN)/clew   ## from text to a better model in some minutes, offline; ends with the report's path
	$(BIN)/clew try

test: $(BIN)/pytest   ## the default suite, about ten minutes on two slow cores
	$(BIN)/pytest -n auto

check: $(BIN)/pytest   ## format, lint, types, layers, duplication
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports
	$(BIN)/python tools/duplication.py

bench: $(BIN)/clew   ## the alarms over ten seeds, about an hour; the races against TRL, hours; writes benchmarks/results/
	$(BIN)/python benchmarks/alarms.py
	for work in $(RACES); do $(BIN)/python benchmarks/$$work.py || exit 1; done
	$(BIN)/python benchmarks/dpo.py --shape wide
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/scaling.py

bench-table: $(BIN)/clew   ## docs/performance.md from benchmarks/results/
	$(BIN)/python benchmarks/table.py

bench-check: $(BIN)/clew   ## the stored races anew, fewer rounds; fails where a ratio fell by more than 15 %
	$(BIN)/python benchmarks/check.py

parity: $(BIN)/pytest   ## TRL's and OpenRLHF's losses, asked anew, against ours; writes tests/golden/ and docs/parity.md
	$(BIN)/python -m tools.parity record runs/parity

docs: $(BIN)/mkdocs   ## the documentation as a site, in site/
	$(BIN)/mkdocs build --strict

clean:
	rm -rf .venv site dist .pytest_cache .ruff_cache .import_linter_cache

$(BIN)/pip:
	$(PYTHON) -m venv .venv

$(BIN)/clew: $(BIN)/pip pyproject.toml constraints.txt
	$(PIP) --editable '.[train]'
	@touch $@

$(BIN)/pytest: $(BIN)/pip pyproject.toml constraints.txt
	$(PIP) --editable '.[dev]'
	@touch $@

$(BIN)/mkdocs: $(BIN)/pip pyproject.toml
	$(PIP) --editable '.[docs]'
	@touch $@
