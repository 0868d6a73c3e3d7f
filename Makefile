# Two commands on a fresh machine with Python and git: `make demo` and `make test`.
# `make readme` runs the demo and writes its output into README and docs.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
STAMP = $(VENV)/installed
TRAINERS = $(VENV)/installed-integrations
# constraints.txt holds for Python 3.11; other versions install what is current.
CONSTRAINTS = $(shell $(PYTHON) -c 'import sys; print("-c constraints.txt" * (sys.version_info[:2] == (3, 11)))')

.PHONY: demo readme test test-long test-slow lint docs wheel clean

demo: $(STAMP)
	@echo "Training 20 small networks on digits, as many at a time as there are processors;"
	@echo "with two of them this takes about a minute."
	@$(BIN)/bayes-htr fit --seeds 5 --out runs/demo-$$(date +%Y%m%d-%H%M%S)

readme: $(STAMP)
	rm -rf runs/readme
	$(BIN)/bayes-htr fit --seeds 5 --out runs/readme
	$(BIN)/python docs/update_demo.py runs/readme

test: $(TRAINERS)
	@echo "Running some 7,000 tests, as many at a time as there are processors; with two of them"
	@echo "this takes about six minutes."
	$(BIN)/python -m pytest -q -n auto -m "not slow and not long and not benchmarks"

test-long: $(TRAINERS)
	@echo "Running whole examples and pages, several processes and the benchmarks: nine minutes."
	$(BIN)/python -m pytest -q -n auto -m "(long or benchmarks) and not slow"

test-slow: $(STAMP)
	@echo "Running long tests of faults and statistics: about an hour with two processors."
	$(BIN)/python -m pytest -q -n auto --dist worksteal -m slow

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

# Runs the notebooks of the documentation anew, and keeps what they show.
notebooks: $(STAMP)
	$(BIN)/python docs/run_notebooks.py

docs: $(STAMP)
	$(BIN)/python -m pip install -q $(CONSTRAINTS) -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict -d build/site

# Source distribution and wheel in dist/; the wheel is tested in an environment of its own.
wheel: $(STAMP)
	@echo "Building dist/ and testing the wheel in build/wheel, a fresh environment: a few minutes."
	rm -rf dist build/wheel
	$(BIN)/python -m pip install -q build
	$(BIN)/python -m build
	$(PYTHON) -m venv build/wheel
	build/wheel/bin/python -m pip install -q $(CONSTRAINTS) dist/*.whl
	cd build/wheel && bin/python -I $(CURDIR)/tests/wheel_smoke.py

$(STAMP): pyproject.toml constraints.txt
	@echo "Installing bayes_htr, PyTorch and Pyro into $(VENV): about a minute, and a few hundred"
	@echo "megabytes if they have to be fetched. This is done once."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q $(CONSTRAINTS) -e ".[all,test]"
	@touch $(STAMP)
	@echo "Installed."

# Lightning, Transformers and others, whose recipes the tests run; without them these are skipped.
$(TRAINERS): $(STAMP)
	@echo "Installing Lightning, Transformers, Accelerate, skorch and PEFT for their tests."
	@$(BIN)/python -m pip install -q $(CONSTRAINTS) -e ".[integrations]"
	@touch $(TRAINERS)

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache build dist
