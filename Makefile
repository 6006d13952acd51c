# Two commands: `make demo` and `make test`. Both install what they need into .venv on first use.
#
#   PYTHON=python3.12     another interpreter (3.10, 3.11 or 3.12)
#   TORCH_INDEX=URL       a package index with CPU builds of torch (Linux wheels on PyPI carry CUDA: ~3 GB more)

PYTHON ?= $(shell for p in python3.11 python3.12 python3.10 python3; do $$p -c '' 2>/dev/null && echo $$p && break; done)
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# $(call timed,WHAT,COMMAND): say what runs and how long it took.
timed = @echo "==> $(1)"; start=$$(date +%s); $(2) || exit $$?; echo "==> $(1): $$(( $$(date +%s) - start )) s"

.PHONY: help demo test gpu lint clean

help:
	@echo "make demo   checkpoint -> INT4-AWQ -> ONNX engine -> Triton -> a streamed answer"
	@echo "make test   lint, types and all tests"
	@echo "make gpu    on a CUDA GPU: quantize a model of QwQ-32B's shape, time and memory beside the plan"
	@echo "make lint   ruff and mypy only"
	@echo "make clean  remove .venv and everything that was built here (the cache in ~/.cache/enginewright stays)"

$(BIN)/python:
	$(call timed,create $(VENV) with $(PYTHON),$(PYTHON) -m venv $(VENV))

# torch first and alone: a range would let pip choose a newer CUDA build.
$(VENV)/.torch: | $(BIN)/python
	$(call timed,install $(TORCH),$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$(TORCH)")
	@touch $@

$(VENV)/.cpu: pyproject.toml $(VENV)/.torch
	$(call timed,install enginewright[cpu],$(PIP) --editable ".[cpu]")
	@touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.torch
	$(call timed,install enginewright[dev],$(PIP) --editable ".[dev]")
	@touch $@ $(VENV)/.cpu

demo: $(VENV)/.cpu
	@$(BIN)/enginewright demo

lint: $(VENV)/.dev
	$(call timed,ruff check,$(BIN)/ruff check .)
	$(call timed,ruff format --check,$(BIN)/ruff format --check .)
	$(call timed,mypy --strict,$(BIN)/mypy)

test: lint
	$(call timed,pytest,$(BIN)/python -m pytest --durations=10 $(PYTEST_ARGS))

# The Python that has torch with CUDA: this project's own if it is installed, else the system's.
GPU_PYTHON ?= $(if $(wildcard $(VENV)/.cpu),$(BIN)/python,$(PYTHON))
gpu:
	@PYTHONPATH=build:engines:runtime:triton_repo:tests $(GPU_PYTHON) tests/gpu/measure.py $(GPU_ARGS)

clean:
	rm -rf $(VENV) models .pytest_cache .mypy_cache .ruff_cache .hypothesis
