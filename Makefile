# Two commands on a machine with Python (3.10 to 3.13), make and a C++ compiler: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
EXTRAS := cpu,train

.PHONY: demo test test-quick check bench clean

demo: $(STAMP)
	$(BIN)/fpc-deploy demo --out demo-output

test: check
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-quick: check
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python -m benchmarks.decoder

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]' --group dev
	touch $@

clean:
	rm -rf $(VENV) demo-output
