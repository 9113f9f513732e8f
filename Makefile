# Two commands: `make reproduce` and `make test`. Both set up .venv first, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: reproduce test lint mutants agreement readme paper clean

reproduce: $(VENV)/.ready
	$(BIN)/residual-theory reproduce --preset quick

test: $(VENV)/.ready
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal

lint: $(VENV)/.ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

mutants: $(VENV)/.ready  # errors planted in the library, against its tests and claims: docs/mutants.csv
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.mutation.check --out docs/mutants.csv

agreement: $(VENV)/.ready  # predict and simulate against the independent simulator: docs/agreement.csv
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.agreement

readme: $(VENV)/.ready  # the table of claims, from what the claims say
	$(BIN)/residual-theory list --markdown >README.table
	awk '/<!-- end of the table/ { skip = 0; print "" } !skip { print } \
	  /<!-- table/ { skip = 1; print ""; while ((getline line <"README.table") > 0) print line }' README.md >README.new
	mv README.new README.md && rm README.table

paper: $(VENV)/.ready  # docs/paper.md, from what the derivations say
	$(BIN)/residual-theory list --theorems >docs/paper.md

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than 3.11: name a newer one, as in make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) results
