# make demo        install, grade and explain the sample photographs with the shipped weights
# make test        install what tests need, then ruff, mypy and pytest
# make docs        write the references, run the notebook, and build the documentation site, site/index.html
# make pictures    the pictures in the documents: of heat maps, of the report, and of stored results
# make test-avx2   the numeric tests as on a processor without AVX-512
PYTHON ?= python3
VENV ?= .venv
DEMO ?= demo
# Address of an index of PyTorch's builds for CPUs; by default the usual build is installed.
TORCH_INDEX ?=
# Test processes; one per core by default.
WORKERS ?= auto
BIN := $(VENV)/bin
SAMPLES := $(sort $(wildcard docs/samples/*.jpg))
# Packages whose tests compare numbers that PyTorch, oneDNN or OpenBLAS computed.
NUMERIC := $(addprefix tests/,metrics networks grading training explanation evaluation)

.PHONY: demo docs pictures test test-avx2 install install-dev clean

install: $(VENV)/installed
install-dev: $(VENV)/installed-dev

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(if $(TORCH_INDEX),$(BIN)/pip install --quiet torch torchvision --index-url $(TORCH_INDEX))
	$(BIN)/pip install --quiet --editable .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

demo: install
	mkdir -p $(DEMO)
	$(BIN)/fundusgrade predict $(SAMPLES) --csv $(DEMO)/grades.csv
	$(BIN)/fundusgrade explain $(SAMPLES) --model aptos-cnn --model efficientnet-lite2 --model vit-small --out $(DEMO)/maps --overwrite
	@echo "Grades are in $(DEMO)/grades.csv, heat maps in $(DEMO)/maps/index.html."
	@echo "Most samples are drawn eyes: their grades mean nothing clinically (docs/samples/README.md)."

test: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict src
	$(BIN)/pytest --numprocesses $(WORKERS)

docs: install-dev
	$(BIN)/python docs/programs/api_reference.py
	$(BIN)/python docs/programs/command_reference.py
	$(BIN)/python docs/programs/run_notebook.py
	$(BIN)/python docs/programs/build_site.py

pictures: install-dev
	$(BIN)/python docs/programs/pictures.py
	$(BIN)/python docs/programs/review_picture.py
	$(BIN)/python docs/programs/report_pictures.py

test-avx2: install-dev
	ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 $(BIN)/pytest --numprocesses $(WORKERS) $(NUMERIC)

clean:
	rm -rf $(VENV) $(DEMO) dist build site .cache
