# From a fresh clone: `make serve` and `make test` do all their set-up themselves.
PYTHON ?= python3
VENV ?= .venv
STORE ?= .store
PORT ?= 8000
HOST ?= 127.0.0.1

BIN := $(VENV)/bin
OPENVINO := $(VENV)/openvino
.PHONY: serve test test-openvino lint container arm64 format peers clean

serve: $(VENV)/.serve
	$(BIN)/model-store pull imagenet --if-empty --store $(STORE)
	exec $(BIN)/mobilenet-service --host $(HOST) --port $(PORT) --store $(STORE)

# Two files at a time; one test alone: $(BIN)/python -m pytest FILE.
test: $(VENV)/.dev
	$(BIN)/python -m pytest --numprocesses=2 --dist=loadfile $(PYTEST_ARGS)

# The two packages that bring OpenVINO, one after the other, in folders of their own: the first is the extra
# `openvino` (made to believe that the processor is Intel's), the second replaces onnxruntime.
test-openvino: $(VENV)/.openvino
	REQUIRE_OPENVINO=1 PYTHONPATH=tests/as_on_intel:$(OPENVINO)/plugin $(BIN)/python -m pytest tests/service/test_openvino.py
	REQUIRE_OPENVINO=1 PYTHONPATH=$(OPENVINO)/built-in $(BIN)/python -m pytest tests/service/test_openvino.py -k "not serves"

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy .ci/*.py

# Both images, really built and run by a Docker engine of their own; needs root and Debian, or is skipped.
container: $(VENV)/.dev
	PYTHON=$(BIN)/python .ci/containers

# The ARM64 edge image's packages on emulated cores; needs root and Debian, or is skipped.
arm64: $(VENV)/.dev
	PYTHON=$(BIN)/python .ci/arm64

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The table of docs/performance.md; 15 minutes on a machine that does nothing else. PHOTOS= is a folder of JPEGs.
peers: $(VENV)/.serve
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[build,resize,bench]'
	$(BIN)/model-store pull imagenet --if-empty --store $(STORE)
	$(BIN)/python -m bench.peers --fresh --store $(STORE) --photos $(PHOTOS)

clean:
	rm -rf $(VENV) .peers .pytest_cache .mypy_cache .ruff_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit(f"Python 3.11 or later is needed, this is {v.major}.{v.minor}; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.serve: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[build,resize]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[build,resize,dev]'
	@touch $@ $(VENV)/.serve

$(VENV)/.openvino: pyproject.toml | $(VENV)/.dev
	rm -rf $(OPENVINO)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(OPENVINO)/plugin onnxruntime-ep-openvino
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(OPENVINO)/built-in onnxruntime-openvino
	@touch $@
