# make demo    stream a recording through a model that ships with the package (FILE=path for your own, MODEL=name or folder)
# make test    lint, types and tests              make lint    ruff and mypy only
# make bench   every measurement of benchmarks/ (BENCH=name for one)
# All of them share .venv, made on the first call; PYTHON=python3.12 chooses the interpreter, PIP_ARGS goes to pip.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MODEL ?= digits
FILE ?= recipes/digits/demo/phone_number.flac
BENCH ?= *
JOBS ?= 2
PIP_ARGS ?=
# -qq: errors only
INSTALL = $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt $(PIP_ARGS)

.PHONY: demo test lint bench clean
.DELETE_ON_ERROR:

demo: $(VENV)/.base
	$(BIN)/asr transcribe --streaming --model $(MODEL) $(FILE)

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.dev
	@failed=; for script in benchmarks/$(BENCH).py; do echo "== $$script"; $(BIN)/python $$script || failed="$$failed $$script"; done; \
	  if [ -n "$$failed" ]; then echo "failed:$$failed" >&2; exit 1; fi

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis

$(VENV)/.created:
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	touch $@

$(VENV)/.base: $(VENV)/.created pyproject.toml constraints.txt
	@echo "installing the base dependencies into $(VENV): the first time this takes minutes, torch is large"
	$(INSTALL) -e .
	touch $@

$(VENV)/.dev: $(VENV)/.base
	@echo "installing the dependencies of training, export and tests into $(VENV)"
	$(INSTALL) -e '.[train,dev,export,grammar]'
	touch $@
