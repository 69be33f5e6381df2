# Two commands do everything on a fresh machine: `make demo` and `make test`.
# Each keeps an environment of its own, so neither touches the other's or yours.

PYTHON ?= python3
DEMO_ENV := .venv-demo
TEST_ENV := .venv-test
TEST_EXTRAS := runtime,raster,vector,video,openvino,export,quant,rtx,train,report,bench,dev,docs
OUT ?= demo

.PHONY: help demo test lint plugin plugin-aarch64 check-python clean

help:
	@echo "make demo                  segment a generated scene whose truth is known, and score it"
	@echo "make demo INPUT=your.tif   segment your picture (JPEG, PNG, TIFF, GeoTIFF)"
	@echo "make test                  install everything, then check style, types and behaviour"
	@echo "make lint                  style and types only (after make test)"
	@echo "make plugin                the CUDA kernels and the TensorRT plugin, into build/"
	@echo "make plugin-aarch64        the same for Orin, by a cross-compiler, into build/aarch64/"
	@echo "make clean                 remove both environments and the demo's output"

check-python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "$(PYTHON) is older than 3.10; run: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 2; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
	  { echo "$(PYTHON) has no venv module; on Debian and Ubuntu: apt-get install python3-venv"; exit 2; }

# Stamps: an environment is rebuilt when what it is made from changes, or when it was left half-made.
$(DEMO_ENV)/.stamp: setup.cfg pyproject.toml | check-python
	$(PYTHON) -m venv $(DEMO_ENV)
	$(DEMO_ENV)/bin/pip install --quiet --editable '.[runtime,raster]'
	@touch $@

$(TEST_ENV)/.stamp: setup.cfg pyproject.toml | check-python
	$(PYTHON) -m venv $(TEST_ENV)
	$(TEST_ENV)/bin/pip install --quiet --editable '.[$(TEST_EXTRAS)]'
	@touch $@

demo: $(DEMO_ENV)/.stamp
	@$(DEMO_ENV)/bin/python examples/demo.py $(if $(INPUT),"$(INPUT)") --output "$(OUT)"

# In three processes. In one, which has then held PyTorch's compiler, both inference libraries, TensorRT-RTX and GDAL,
# a library ends it by a segmentation fault in the training tests, which pass by themselves.
test: $(TEST_ENV)/.stamp lint
	$(TEST_ENV)/bin/python -m pytest $(PYTEST_ARGS) tests/emra_deploy
	$(TEST_ENV)/bin/python -m pytest $(PYTEST_ARGS) tests/training
	$(TEST_ENV)/bin/python -m pytest $(PYTEST_ARGS) --ignore=tests/emra_deploy --ignore=tests/training

lint: $(TEST_ENV)/.stamp
	$(TEST_ENV)/bin/ruff check .
	$(TEST_ENV)/bin/ruff format --check .
	$(TEST_ENV)/bin/mypy

# One architecture builds fastest: make plugin PLUGIN_OPTIONS=-DCMAKE_CUDA_ARCHITECTURES=87
# Where TensorRT is not installed, its headers come from the package kernel-lens: of `make test`, or of your Python.
PLUGIN_OPTIONS ?=
PLUGIN_PYTHON = $(firstword $(wildcard $(CURDIR)/$(TEST_ENV)/bin/python) $(shell command -v $(PYTHON)))
plugin:
	cmake -B build/native -DPython3_EXECUTABLE=$(PLUGIN_PYTHON) $(PLUGIN_OPTIONS)
	cmake --build build/native --parallel
	cmake --install build/native --prefix build/plugin
	@echo "The plugin: $(CURDIR)/build/plugin"

# An x86 toolkit has no CUDA runtime for aarch64; its package for that machine does, at the toolkit's own version.
CUDA_VERSION = $(shell nvcc --version | sed -n 's/.*release \([0-9]*\.[0-9]*\).*/\1/p')
build/cudart-aarch64/lib/libcudart_static.a:
	$(PYTHON) -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.11 \
	  --platform manylinux2014_aarch64 --dest build/cudart-aarch64 'nvidia-cuda-runtime==$(CUDA_VERSION).*'
	$(PYTHON) -m zipfile --extract build/cudart-aarch64/nvidia_cuda_runtime-*.whl build/cudart-aarch64/wheel
	mv build/cudart-aarch64/wheel/nvidia/cu*/lib build/cudart-aarch64/lib

plugin-aarch64: build/cudart-aarch64/lib/libcudart_static.a
	cmake -B build/native-aarch64 --toolchain cmake/aarch64-linux-gnu.cmake -DEMRA_CUDART_STATIC=$(CURDIR)/$< \
	  -DPython3_EXECUTABLE=$(PLUGIN_PYTHON) $(or $(PLUGIN_OPTIONS),-DCMAKE_CUDA_ARCHITECTURES=87)
	cmake --build build/native-aarch64 --parallel
	cmake --install build/native-aarch64 --prefix build/aarch64
	@echo "The plugin: $(CURDIR)/build/aarch64"

clean:
	rm -rf $(DEMO_ENV) $(TEST_ENV) demo build
