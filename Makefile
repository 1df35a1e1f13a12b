# Two commands from a fresh clone: `make demo` and `make test`. Each makes .venv when it is missing or out of date.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install demo demo-edge test lint chaos fuzz mutants audit bench bench-engines bench-quick bench-guard bench-learning clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[embedded,console,report,tuning,demo,dev]'
	touch $@

install: $(STAMP)

demo: $(STAMP)
	$(BIN)/refinery demo --exit

demo-edge: $(STAMP)
	$(BIN)/refinery demo --world edge --exit

test: $(STAMP)
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null || echo "chromium or chromedriver is missing: the console's browser tests are left out"
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null || echo "PostgreSQL's server is missing: the tests of a store in it are left out"
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Faults on purpose: processes killed, disks, wires, clocks and servers that fail. Half an hour; see docs/faults.md.
chaos: $(STAMP)
	$(BIN)/python -m tests.faults.chaos --crash-points --schedules 2000 --processes 2
	$(BIN)/python -m tests.faults.chaos --crash-points --schedules 500 --processes 2 --engine postgresql

# Mutated events through the door and through the worker.
fuzz: $(STAMP)
	$(BIN)/python -m tests.faults.fuzz --cases 200000 --processes 2

# Lines that enforce a rule, each broken in a copy: the tests beside it have to notice. TURN=--turn for ten of them.
mutants: $(STAMP)
	$(BIN)/python -m tests.mutants --processes 2 $(TURN)

# Speed, beside named baselines: about half an hour; two minutes; and the check of a change, ratios only.
$(VENV)/.bench: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	touch $@

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks

# The store in PostgreSQL beside SQLite; needs PostgreSQL's server.
bench-engines: $(VENV)/.bench
	$(BIN)/python -m benchmarks.engines
	$(BIN)/python -m benchmarks.shards

bench-quick: $(VENV)/.bench
	$(BIN)/python -m benchmarks --quick

bench-guard: $(VENV)/.bench
	$(BIN)/python -m benchmarks.guard

# What learning is worth, on worlds with known truth; days, resumed where it was stopped. QUICK=--quick for some minutes.
bench-learning: $(STAMP)
	$(BIN)/python -m benchmarks.learning $(QUICK)

# The pinned dependencies against the public advisories; needs that service, so it is no part of the checks of a change.
audit: constraints.txt
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit
	.venv-audit/bin/pip-audit --strict --no-deps --disable-pip --requirement constraints.txt

clean:
	rm -rf $(VENV) .venv-audit var build dist *.egg-info
