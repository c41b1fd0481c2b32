# `make demo` and `make test` set up everything they need in .venv.
#
# PyTorch: with an NVIDIA GPU the default wheel is what you want. Without one, pip may still fetch the CUDA build (gigabytes);
# set TORCH_INDEX to the CPU index named on PyTorch's "get started" page to avoid that.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TORCH_INDEX ?=
GPU := $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | grep -c GPU)
RUNTIME := $(if $(filter-out 0,$(GPU)),gpu,cpu)
DEMO ?= demo
# Other inference libraries, measured beside podx. They need versions of their own, so an environment of their own.
PODX_PEERS ?= .venv-peers
# SASRec, a recommender to compare accuracy with; its library needs other versions again.
PODX_SASREC ?= .venv-sasrec
# The lowest versions that pyproject.toml declares, on the lowest Python; all else as pip chooses it.
PODX_OLDEST ?= .venv-oldest
OLDEST_PYTHON ?= python3.11

.PHONY: demo test test-oldest lint docs peers peers-sasrec clean

$(BIN)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,$(RUNTIME)]'
	touch $@

demo: $(BIN)/.ready
	PATH="$(abspath $(BIN)):$$PATH" sh examples/demo.sh $(DEMO)

# Two processes; a test file stays in one of them, so that what its tests share is made once. WORKERS=0: no processes.
WORKERS ?= 2
# glibc keeps freed memory: given back after each large tensor and faulted in again, it took a tenth of the time.
KEEP_MEMORY := MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=2147483648
test: $(BIN)/.ready
	OMP_NUM_THREADS=1 $(KEEP_MEMORY) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --cov --cov-report=term $(PYTEST_ARGS)

# The lowest torch is the one of constraints.txt: no earlier CPU build was at hand to test with.
test-oldest: $(PODX_OLDEST)/.ready
	OMP_NUM_THREADS=1 $(PODX_OLDEST)/bin/python -m pytest -n $(WORKERS) --dist loadfile $(PYTEST_ARGS) tests/podx tests/export

$(PODX_OLDEST)/.ready: pyproject.toml .ci/lowest.py
	$(OLDEST_PYTHON) -m venv $(PODX_OLDEST)
	$(PODX_OLDEST)/bin/python .ci/lowest.py > $(PODX_OLDEST)/constraints.txt
	$(PODX_OLDEST)/bin/python -m pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) --constraint $(PODX_OLDEST)/constraints.txt torch
	$(PODX_OLDEST)/bin/python -m pip install --quiet --constraint $(PODX_OLDEST)/constraints.txt --editable '.[cpu,export,peft,score,serve]' hypothesis pytest pytest-xdist
	touch $@

lint: $(BIN)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The pages of docs/, into build/site. A broken link, or a page that the navigation leaves out, is an error.
docs: $(BIN)/.ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

peers: $(PODX_PEERS)/.ready

$(PODX_PEERS)/.ready: pyproject.toml constraints-peers.txt
	$(PYTHON) -m venv $(PODX_PEERS)
	$(PODX_PEERS)/bin/python -m pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) --constraint constraints-peers.txt torch
	$(PODX_PEERS)/bin/python -m pip install --quiet --constraint constraints-peers.txt --editable '.[cpu]' ctranslate2 onnx openvino optimum-intel optimum-onnx psutil
	touch $@

peers-sasrec: $(PODX_SASREC)/.ready

$(PODX_SASREC)/.ready: pyproject.toml constraints-sasrec.txt
	$(PYTHON) -m venv $(PODX_SASREC)
	$(PODX_SASREC)/bin/python -m pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) --constraint constraints-sasrec.txt torch
	$(PODX_SASREC)/bin/python -m pip install --quiet --constraint constraints-sasrec.txt 'rectools[torch]'
	$(PODX_SASREC)/bin/python -m pip install --quiet --no-deps --editable .
	touch $@

clean:
	rm -rf $(VENV) .venv-peers .venv-sasrec .venv-oldest $(DEMO)
