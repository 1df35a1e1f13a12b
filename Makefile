# Two commands from a fresh clone: `make demo` and `make test`. Each makes .venv when it is missing or out of date.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install demo test lint clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[embedded,console,demo,dev]'
	touch $@

install: $(STAMP)

demo: $(STAMP)
	$(BIN)/refinery demo --exit

test: $(STAMP)
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null || echo "chromium or chromedriver is missing: the console's browser tests are left out"
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) var build dist *.egg-info
