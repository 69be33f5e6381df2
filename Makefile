# Two commands do everything on a fresh machine: `make demo` and `make test`.
# Each keeps an environment of its own for each version of Python, so none touches another's or yours.

PYTHON ?= python3
PYTHONS ?= 3.10 3.11 3.12 3.13
PY := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
OUT ?= demo

DEMO_ENV := .venv-demo-$(PY)
TEST_ENV := .venv-test-$(PY)
DEVICE_ENV := .venv-device-$(PY)
MODELS_ENV := .venv-models-$(PY)
MODELS_EXTRAS := runtime,openvino,quant,export
DEMO_EXTRAS := runtime,raster
DEVICE_EXTRAS := runtime,raster,vector,video,openvino,test
JETPACK_EXTRAS := runtime,raster,vector,video,openvino,bench,export,quant
TEST_EXTRAS := $(DEVICE_EXTRAS),export,quant,rtx,train,report,bench,dev,docs

# The versions that were tested, one file for each Python; a Python without one takes the newest.
LOCK := $(wildcard requirements/python-$(PY).txt)
LOCKED := $(if $(LOCK),--constraint $(LOCK))

.PHONY: help demo models test test-device test-pythons test-latest test-lowest test-platforms lint lock \
  plugin plugin-aarch64 image check-python clean

help:
	@echo "make demo                  segment a generated scene whose truth is known, and score it"
	@echo "make demo INPUT=your.tif   segment your picture (JPEG, PNG, TIFF, GeoTIFF)"
	@echo "make models                the shipped model for GPUs: FP16, INT8 with FP16, and the plugin's form, into models/"
	@echo "make test                  install everything, then check style, types and behaviour"
	@echo "make test-device           the runtime's tests alone, without PyTorch"
	@echo "make test-pythons          demo and test on Python $(PYTHONS)"
	@echo "make test-latest           the same as test, with the newest release of every library"
	@echo "make test-lowest           the runtime's tests, with the oldest releases that setup.cfg admits"
	@echo "make test-platforms        what Jetsons and other machines can install (needs the package registry)"
	@echo "make lint                  style and types only"
	@echo "make lock                  write requirements/ again; UPGRADE=1 takes the newest releases"
	@echo "make plugin                the CUDA kernels and the TensorRT plugin, into build/"
	@echo "make plugin-aarch64        the same for Orin, by a cross-compiler, into build/aarch64/"
	@echo "make image KIND=runtime    a container image: runtime, cuda, jetpack6 or jetpack7 (ENGINE=docker, podman, buildah)"
	@echo "make clean                 remove the environments and the demo's output"
	@echo "Another Python: make demo PYTHON=python3.12"

check-python:
	@test -n "$(PY)" || { echo "$(PYTHON) does not run here; run: make $(MAKECMDGOALS) PYTHON=/path/to/python3"; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "$(PYTHON) is older than 3.10; run: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 2; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
	  { echo "$(PYTHON) has no venv module; on Debian and Ubuntu: apt-get install python3-venv"; exit 2; }
	@$(if $(LOCK),true,echo "requirements/ has no file for Python $(PY): taking the newest libraries")

# $(call environment,FOLDER,EXTRAS): build tools first, so that they are locked as well.
# Stamps: an environment is rebuilt when what it is made from changes, or when it was left half-made.
define environment
$(PYTHON) -m venv --clear $(1)
$(1)/bin/pip install --quiet $(LOCKED) setuptools
$(1)/bin/pip install --quiet $(LOCKED) --no-build-isolation --editable '.[$(2)]'
@touch $(1)/.stamp
endef

$(DEMO_ENV)/.stamp: setup.cfg pyproject.toml $(LOCK) | check-python
	$(call environment,$(DEMO_ENV),$(DEMO_EXTRAS))

$(TEST_ENV)/.stamp: setup.cfg pyproject.toml $(LOCK) | check-python
	$(call environment,$(TEST_ENV),$(TEST_EXTRAS))

$(DEVICE_ENV)/.stamp: setup.cfg pyproject.toml $(LOCK) | check-python
	$(call environment,$(DEVICE_ENV),$(DEVICE_EXTRAS))

$(MODELS_ENV)/.stamp: setup.cfg pyproject.toml $(LOCK) | check-python
	$(call environment,$(MODELS_ENV),$(MODELS_EXTRAS))

demo: $(DEMO_ENV)/.stamp
	@$(DEMO_ENV)/bin/python examples/demo.py $(if $(INPUT),"$(INPUT)") --output "$(OUT)"

# FP16, INT8 with FP16, and each in the plugin form: what GPUs want of the shipped model. Ignored by git.
MODEL := models/emra-ti-dubai
GPU_MODELS := $(MODEL).fp16.onnx $(MODEL).int8-fp16.onnx
models: $(GPU_MODELS) $(patsubst %.onnx,%.plugin.onnx,$(MODEL).onnx $(GPU_MODELS))
$(MODEL).fp16.onnx: $(MODEL).onnx $(MODELS_ENV)/.stamp
	$(MODELS_ENV)/bin/python export/to_fp16.py $< --output $@ --overwrite
$(MODEL).int8-fp16.onnx: emra_deploy/models/emra-ti-dubai.int8.onnx $(MODELS_ENV)/.stamp
	$(MODELS_ENV)/bin/python export/to_fp16.py $< --output $@ --overwrite
%.plugin.onnx: %.onnx $(MODELS_ENV)/.stamp
	$(MODELS_ENV)/bin/python export/rewrite_aggregation.py $< --to plugin --output $@ --overwrite

test: $(TEST_ENV)/.stamp
	@$(TEST_ENV)/bin/python -m tests.parts $(PYTEST_ARGS)

test-device: $(DEVICE_ENV)/.stamp
	@$(DEVICE_ENV)/bin/python -m tests.parts --only device $(PYTEST_ARGS)

test-pythons:
	@failed=; for version in $(PYTHONS); do echo "Python $$version"; \
	  $(MAKE) --no-print-directory demo test PYTHON=python$$version OUT=$(OUT)-$$version || failed="$$failed $$version"; \
	done; if [ -n "$$failed" ]; then echo "failed on Python$$failed"; exit 1; fi

test-platforms: $(TEST_ENV)/.stamp .venv-tools/.stamp
	EMRA_PLATFORMS=1 $(TEST_ENV)/bin/python -m pytest $(PYTEST_ARGS) tests/platforms
	@$(TEST_ENV)/bin/python -m tests.platforms.resolving

# Always made again: what was newest yesterday is not today.
test-latest: LOCKED :=
test-latest: | check-python
	$(call environment,.venv-latest-$(PY),$(TEST_EXTRAS))
	@.venv-latest-$(PY)/bin/python -m tests.parts $(PYTEST_ARGS)

.venv-tools/.stamp: requirements/tools.txt
	$(PYTHON) -m venv --clear .venv-tools
	.venv-tools/bin/pip install --quiet --requirement requirements/tools.txt
	@touch $@

test-lowest: .venv-tools/.stamp | check-python
	$(PYTHON) -m venv --clear .venv-lowest-$(PY)
	.venv-tools/bin/uv pip install --quiet --python .venv-lowest-$(PY)/bin/python --resolution lowest-direct \
	  --editable '.[$(DEVICE_EXTRAS)]'
	@.venv-lowest-$(PY)/bin/python -m tests.parts --only device $(PYTEST_ARGS)

lint: $(TEST_ENV)/.stamp
	@$(TEST_ENV)/bin/python -m tests.parts --only style types

COMPILE = .venv-tools/bin/uv pip compile --quiet --no-annotate --custom-compile-command 'make lock' \
  $(if $(UPGRADE),--upgrade) --constraint requirements/held.txt pyproject.toml requirements/build.in
extras = $(foreach extra,$(subst $(comma), ,$(1)),--extra $(extra))
comma := ,
lock: .venv-tools/.stamp
	for version in 3.10 3.11 3.12 3.13; do \
	  $(COMPILE) $(call extras,$(TEST_EXTRAS)) --python-version $$version --python-platform x86_64-manylinux_2_28 \
	    --output-file requirements/python-$$version.txt || exit; \
	done
	$(COMPILE) $(call extras,$(JETPACK_EXTRAS)$(comma)cuda12) --python-version 3.10 --python-platform aarch64-manylinux_2_35 \
	  --output-file requirements/jetpack-6.txt
	$(COMPILE) $(call extras,$(JETPACK_EXTRAS)$(comma)cuda13) --python-version 3.12 --python-platform aarch64-manylinux_2_39 \
	  --output-file requirements/jetpack-7.txt

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

# KIND is runtime, cuda, jetpack6 or jetpack7; ENGINE docker, podman or buildah. Only Docker's format keeps health checks.
KIND ?= runtime
ENGINE ?= docker
IMAGE ?= emra-deploy:$(KIND)
IMAGE_OPTIONS ?=
image:
	$(ENGINE) build $(if $(filter docker,$(ENGINE)),,--format docker) --file docker/Dockerfile.$(KIND) --tag $(IMAGE) \
	  --label org.opencontainers.image.revision=$(shell git rev-parse HEAD 2>/dev/null) $(IMAGE_OPTIONS) .

clean:
	rm -rf .venv-demo-* .venv-models-* .venv-test-* .venv-device-* .venv-latest-* .venv-lowest-* .venv-tools demo demo-3.* build
