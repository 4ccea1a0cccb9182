# The one door to the project. `make demo` and `make setup` need Python 3.11 and make only; everything else that a
# target uses is checked for where it is used.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The compiled core: stale once one of its sources changes, as Python would go on loading the old binary.
CORE := $(VENV)/.compiled
CORE_SOURCES := $(wildcard proxy/http2/*.py proxy/relay/*.py proxy/balance/*.py proxy/net/*.py)
# What `test-interpreted` runs: all of it; narrow it by hand.
INTERPRETED ?= tests

.PHONY: help setup build demo up test test-interpreted check bench hostile proto tools containers clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(CORE) ## make .venv with the project in it, the core compiled where there is a C compiler

$(STAMP): pyproject.toml $(wildcard setup.py)
	$(PYTHON) -m venv $(VENV)
	GRPC_SIDECAR_COMPILE=0 $(BIN)/python -m pip install --quiet -e '.[dev]' --config-settings editable_mode=compat
	@touch $@

$(CORE): $(CORE_SOURCES) $(STAMP)
	$(BIN)/python setup.py --quiet build_ext --inplace
	@touch $@

build: $(STAMP) ## compile the core in place; fails where it cannot be compiled
	GRPC_SIDECAR_COMPILE=1 $(BIN)/python setup.py --quiet build_ext --inplace
	@touch $(CORE)

demo: $(CORE) ## blue/green under live traffic on this machine, with a summary
	$(BIN)/python -m compose demo

up: $(CORE) ## the whole stack as local processes until Ctrl-C
	$(BIN)/python -m compose up

test: $(CORE) ## all tests; the real tools are built first where Go is present
	@if command -v go >/dev/null; then $(BIN)/python -m tests.tools.build; \
	else echo "make test: no Go here, so tests that need a real tool are skipped and say so"; fi
	$(BIN)/python -m pytest

test-interpreted: $(STAMP) ## the tests again on a copy of the project whose core is not compiled
	rm -rf build/interpreted && mkdir -p build/interpreted
	tar --exclude=./$(VENV) --exclude=./.git --exclude=./build --exclude='*.so' -cf - . | tar -C build/interpreted -xf -
	cd build/interpreted && PYTHONPATH=$(CURDIR)/build/interpreted $(CURDIR)/$(BIN)/python -m pytest $(INTERPRETED)

check: $(STAMP) ## lint, formatting, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(CORE) ## what the proxy costs, against other proxies where they are installed
	$(BIN)/python -m tests.bench

hostile: $(CORE) ## what hostile clients and instances cost a good client, a row each: half an hour
	$(BIN)/python -m tests.hostile

proto: $(STAMP) ## regenerate the stubs from greeter/helloworld.proto
	$(BIN)/python -m grpc_tools.protoc -I . --python_out=. --pyi_out=. --grpc_python_out=. greeter/helloworld.proto

tools: ## build the real tools of the tests from their pinned modules (needs Go; node for grpc-js)
	$(PYTHON) -m tests.tools.build

containers: tools ## build the images and run the scenario in them, without an image registry (Debian, root)
	$(PYTHON) -m tests.containers

clean: ## forget the environment and what was built; the tools' cache stays
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis tests/tools/bin
	rm -f *.so && find proxy -name '*.so' -delete
