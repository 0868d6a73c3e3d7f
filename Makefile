# Two commands on a fresh machine with Python and git: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
STAMP = $(VENV)/installed

.PHONY: demo test test-slow lint docs clean

demo: $(STAMP)
	$(BIN)/bayes-htr fit --threads 1 --out runs/demo-$$(date +%Y%m%d-%H%M%S)

test: $(STAMP)
	$(BIN)/python -m pytest -q

test-slow: $(STAMP)
	$(BIN)/python -m pytest -q -m slow

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(STAMP)
	$(BIN)/pip install -q "mkdocs-material>=9.5"
	$(BIN)/mkdocs build --strict

# constraints.txt holds for Python 3.11; other versions install what is current.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	if $(BIN)/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'; \
	then $(BIN)/python -m pip install -q -c constraints.txt -e ".[all,test]"; \
	else $(BIN)/python -m pip install -q -e ".[all,test]"; fi
	touch $(STAMP)

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build dist
