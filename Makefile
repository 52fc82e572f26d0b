# make demo   install, grade and explain the sample photographs with the shipped weights
# make test   install what tests need, then ruff, mypy and pytest
PYTHON ?= python3
VENV ?= .venv
DEMO ?= demo
BIN := $(VENV)/bin
SAMPLES := $(sort $(wildcard docs/samples/*.jpg))

.PHONY: demo test install install-dev clean

install: $(VENV)/installed
install-dev: $(VENV)/installed-dev

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

demo: install
	mkdir -p $(DEMO)
	$(BIN)/fundusgrade predict $(SAMPLES) --csv $(DEMO)/grades.csv
	$(BIN)/fundusgrade explain $(SAMPLES) --model aptos-efficientnet-lite0 --model aptos-cnn --out $(DEMO)/maps
	@echo "Grades are in $(DEMO)/grades.csv, heat maps in $(DEMO)/maps/index.html."
	@echo "Most samples are drawn eyes: their grades mean nothing clinically (docs/samples/README.md)."

test: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict src
	$(BIN)/pytest

clean:
	rm -rf $(VENV) $(DEMO) dist build
