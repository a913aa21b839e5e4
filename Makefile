# Everything here makes what it needs: a virtual environment in .venv with the exact versions of constraints.txt.
# A target's environment is made anew when setup.cfg, constraints.txt or this file changes, another PYTHON is asked for,
# or the folder has moved. Python 3.10 to 3.14.

PYTHON ?= python3
OUTPUT ?= artifacts
PYTEST ?= -n auto --dist loadgroup
ARGS ?=
SECONDS ?= 60
TARGETS ?=

VENV := .venv
BIN := $(VENV)/bin
FARM := build/typecheck

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.SUFFIXES:
.PHONY: help convert test lint format typecheck develop docs benchmarks fuzz clean FORCE

help:
	@echo 'make convert   the released open_nsfw model to ONNX and PyTorch, verified, into $(OUTPUT)/ (OUTPUT=folder)'
	@echo 'make test      run the tests (ARGS="-k name" to choose)'
	@echo 'make coverage  run the tests and print which lines they reach; fails below 95 %'
	@echo 'make mutation  put faults into modules that all rests on; fails where the tests miss one'
	@echo 'make lint      check formatting, style and types'
	@echo 'make format    format the sources'
	@echo 'make develop   install everything that tests and checks use into .venv'
	@echo 'make benchmarks  speed and memory beside other packages, ten minutes; the table goes into the documentation'
	@echo 'make docs      the documentation as a site in build/site'
	@echo 'make fuzz      fuzz every reader for SECONDS=60 each (TARGETS="prototxt_net caffemodel" to choose)'
	@echo 'make clean     remove .venv and whatever was built; $(OUTPUT)/ stays'
	@echo 'PYTHON=python3.12 chooses the interpreter (3.10 to 3.14); the default is python3'

convert: $(VENV)/.convert
	"$(BIN)/caffe-port" convert open_nsfw --output "$(OUTPUT)" $(ARGS)

test: $(VENV)/.test
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 "$(BIN)/python" -m pytest $(PYTEST) $(ARGS)

# Processes that tests kill leave data cut off; combine warns of them.
coverage: $(VENV)/.develop
	@mkdir -p build/coverage
	"$(BIN)/coverage" erase
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 "$(BIN)/coverage" run -m pytest $(PYTEST) $(ARGS)
	PYTHONWARNINGS=ignore "$(BIN)/coverage" combine --quiet
	@rm -f build/coverage/data.*
	"$(BIN)/coverage" report

mutation: $(VENV)/.mutation
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 "$(BIN)/python" -m mutation.run $(ARGS) $(TARGETS)

lint: $(VENV)/.develop
	"$(BIN)/ruff" format --check .
	"$(BIN)/ruff" check .
	@$(MAKE) --no-print-directory typecheck

format: $(VENV)/.develop
	"$(BIN)/ruff" format .
	"$(BIN)/ruff" check --fix .

# setup.cfg puts proto/, converters/ and reference_outputs/ below caffe_port. mypy does not read setup.cfg, so it looks
# at a folder of links in which they lie where they are installed.
typecheck: $(VENV)/.develop
	@rm -rf "$(FARM)" && mkdir -p "$(FARM)/caffe_port"
	@for entry in caffe_port/* proto converters reference_outputs; do ln -s "../../../$$entry" "$(FARM)/caffe_port/"; done
	cd "$(FARM)" && ../../$(BIN)/mypy --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache -p caffe_port

develop: $(VENV)/.develop

docs: $(VENV)/.develop
	NO_MKDOCS_2_WARNING=1 "$(BIN)/mkdocs" build --strict

fuzz: $(VENV)/.fuzz
	"$(BIN)/python" -m fuzzing.run --seconds $(SECONDS) $(ARGS) $(TARGETS)

benchmarks: $(VENV)/.develop
	"$(BIN)/python" benchmarks/all.py --write $(ARGS)

clean:
	rm -rf "$(VENV)" build dist caffe_port.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find caffe_port proto converters reference_outputs fuzzing mutation tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Warnings are setuptools' own, about editable installations. Without a terminal pip is quiet.
PIP := PYTHONWARNINGS=ignore "$(BIN)/python" -m pip $(if $(MAKE_TERMOUT),,--quiet)

# .created holds the place and the Python that the environment was made for. Where they are others now, it is made anew.
IDENTITY := $(CURDIR) $(shell $(PYTHON) -c 'import sys; print(sys.version.split()[0])')
ifneq "$(shell cat $(VENV)/.created 2>/dev/null)" "$(IDENTITY)"
$(VENV)/.created: FORCE
endif

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "caffe_port needs Python 3.10 or later: make PYTHON=...")'
	$(PYTHON) -m venv --clear "$(VENV)"
	@printf '%s\n' "$(IDENTITY)" > "$@"

DEPENDS := $(VENV)/.created setup.cfg constraints.txt Makefile

$(VENV)/.convert: EXTRAS := torch,runtime
$(VENV)/.test: EXTRAS := all,test
$(VENV)/.develop: EXTRAS := all,test,dev,docs,openvino,spark
$(VENV)/.fuzz: EXTRAS := all,test,fuzz
$(VENV)/.mutation: EXTRAS := all,test,mutation

$(VENV)/.convert $(VENV)/.test $(VENV)/.develop $(VENV)/.fuzz $(VENV)/.mutation: $(DEPENDS)
	$(PIP) install -c constraints.txt pip setuptools
	$(PIP) install -c constraints.txt --no-build-isolation -e '.[$(EXTRAS)]'
	@touch "$@"
