# The commands a person needs. `make demo` and `make test` make the virtual environment first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python
# Of the development environment, for all Pythons and systems: what stands in the lock already stays.
DEV_LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.10 --generate-hashes \
	--custom-compile-command 'make lock'
# Of the image: see the Dockerfile.
LOCK := $(BIN)/uv pip compile --quiet --python-version 3.11 --python-platform x86_64-manylinux_2_28 --generate-hashes \
	--custom-compile-command 'make lock'

.DEFAULT_GOAL := help
.PHONY: help demo test test-commands test-benchmarks test-image lock docs templates check format bench goals clean engines test-engines test-faults

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/:/' | awk -F: '{printf "  make %-17s%s\n", $$1, $$2}'

$(VENV)/.installed: setup.py pyproject.toml dev.lock
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' \
	  || { echo "error: Python 3.10 to 3.13 is needed; give one with: make PYTHON=python3.12 ..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	$(UV) --no-deps --require-hashes -r dev.lock
	$(UV) --no-deps -e .
	@touch $@

demo: $(VENV)/.installed  ## build a small dataset from real photographs and curate it
	$(BIN)/beam-curate demo --folder demo

# Without what Python and pytest compile of the tests and the package each process of a test compiles it anew: it is kept here even
# where the environment (as in many images) says not to.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses 2 --dist worksteal

test: $(VENV)/.installed  ## run the tests of the library, in two processes (3 to 5 minutes on two cores)
	$(PYTEST) --ignore tests/pipelines

test-commands: $(VENV)/.installed  ## run whole commands, as users do, and the README's lines (3 to 6 minutes)
	$(PYTEST) tests/pipelines

test-benchmarks: $(VENV)/.installed  ## run the benchmarks on tiny input, to see that they work (three minutes)
	$(PYTEST) tests_benchmarks

test-image: $(VENV)/.installed  ## run the install steps of the Dockerfile in a scratch environment (10 GB, minutes)
	TEST_IMAGE=1 $(BIN)/python -m pytest tests/pipelines/test_docker.py

lock: $(VENV)/.installed  ## resolve the packages of the image and of this environment again
	$(DEV_LOCK) setup.py --extra demo --extra dev --output-file dev.lock
	$(LOCK) setup.py --extra dali-cuda12 --extra s3 --constraint docker/constraints.txt --output-file requirements.lock
	$(LOCK) docker/build.in --output-file docker/build.lock

docs: $(VENV)/.installed  ## build the pages as a site into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

templates: $(VENV)/.installed  ## write the metadata of the Flex Templates from the options
	$(BIN)/python pipelines/template_metadata.py --write

check: $(VENV)/.installed  ## lint, types, and the rules on imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed  ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.installed  ## measure speed and memory against baselines (about ten minutes)
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/memory.py

goals: $(VENV)/.installed  ## measure the goals on a CPU: first images, data path, cores, model (about ten minutes, idle machine)
	$(BIN)/python benchmarks/starting.py
	$(BIN)/python benchmarks/overhead.py --images 3072 --only pipeline_stub_write,pipeline_stub_write@1,loop_stub_write,limit
	$(BIN)/python benchmarks/overhead.py --only pipeline_clip_write,model_alone

clean:  ## remove the demo and caches (not the virtual environment)
	rm -rf demo site .pytest_cache .mypy_cache .ruff_cache .hypothesis

engines: $(VENV)/.installed  ## install Prism and Flink into .tools/ (Go, Java and Maven needed; what lacks is left out)
	engines/install.sh $(BIN)/python

test-engines: engines  ## run the commands on Prism, Flink and remote workers (15 minutes; cut off from the network)
	engines/isolated.sh $(BIN)/python -m pytest tests_engines

test-faults: $(VENV)/.installed  ## storage that fails in every way, killed processes, hostile inputs (long)
	-$(UV) 'atheris>=3'  # the fuzz targets are skipped where it cannot be had
	$(BIN)/python -m pytest tests_faults -s
