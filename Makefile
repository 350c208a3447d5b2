# Targets for people and for CI alike. Needs Python 3.11 or newer and make; everything else goes into .venv.
# All paths are relative: the directory of the clone may have spaces in its name.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:

PY := .venv/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
RUN := HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false $(PY)

# An interpreter of the right age that can make an environment. `make PYTHON=/path/to/python3.12 test` overrides it.
PYTHON ?= $(shell for p in python3.11 python3 python3.13 python3.12 python; do \
	"$$p" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
	&& { echo "$$p"; break; }; done)

# The CPU build of torch satisfies the extra, so that the much larger CUDA build is not pulled in. Where no such build
# is to be had under this name, any torch does; to choose one: make test TORCH='torch --index-url URL' (see pytorch.org).
TORCH ?= torch==2.13.0

# More arguments for the test runner: make test PYTEST='-k moment'
PYTEST ?=
# ... and for the benchmark: make bench BENCH='append --json figures.json'
BENCH ?=
# ... and for the growth: make bench-scale SCALE='--max 1e6'
SCALE ?=
# ... and for the fault runs: make faults FAULTS='crashes --seed 7 --minutes 30'
FAULTS ?=
TEST_WORKERS ?= auto

.PHONY: help venv test backends test-backends faults demo bench bench-peers bench-scale lint docs clean

help:
	@echo "make demo   the main job on real input, in under a minute (installs the core only)"
	@echo "make test   the whole suite; sets up all that it needs, the real model included"
	@echo "make test-backends  traces to real backends, which it installs beside the project (850 MB)"
	@echo "make faults tries to break every promise, for hours if let; see docs/reliability.md"
	@echo "make bench  timed runs, as ratios; see docs/performance.md"
	@echo "make bench-peers  what bench compares with, into .venv-peers; make bench-scale: growth, as a picture"
	@echo "make lint   ruff and mypy --strict"
	@echo "make docs   writes what is generated in docs/ anew"
	@echo "make venv   .venv with the package (core only)"
	@echo "make clean  removes the environments and caches"

venv: .venv/.core

# A stamp is newer than pyproject.toml exactly when the environment was made from it; a half-finished one has no stamp.
.venv/.core: pyproject.toml
	@test -n '$(PYTHON)' || { echo "make: needs Python 3.11 or newer with venv and ensurepip (on Debian: apt install" \
		"python3.11 python3.11-venv); name one with PYTHON=..." >&2; exit 1; }
	@'$(PYTHON)' -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: $(PYTHON) is not Python 3.11" \
		"or newer; name one with PYTHON=..." >&2; exit 1; }
	'$(PYTHON)' -m venv .venv
	$(PIP) install --quiet --editable .
	@touch $@

.venv/.full: .venv/.core
	@$(PY) -c 'import torch' 2>/dev/null || $(PIP) install --quiet $(TORCH) || $(PIP) install --quiet 'torch>=2.2'
	$(PIP) install --quiet --editable '.[embeddings,onnx,test]'
	@touch $@

.venv/.dev: .venv/.core
	$(PIP) install --quiet --editable '.[dev]'
	@touch $@

test: .venv/.full
	$(RUN) -m pytest -n $(TEST_WORKERS) --dist loadgroup $(PYTEST)

# Backends that traces are sent to, each in an environment of its own: what they depend on is no affair of the project.
.venv-%/.ready: tests/backends/%.txt
	@test -n '$(PYTHON)' || { echo "make: needs Python 3.11 or newer; name one with PYTHON=..." >&2; exit 1; }
	'$(PYTHON)' -m venv $(@D)
	$(@D)/bin/python -m pip --disable-pip-version-check install --quiet --requirement $<
	@touch $@

backends: .venv-mlflow/.ready .venv-rotel/.ready

test-backends: .venv/.full backends
	$(RUN) -m pytest -n 2 --dist loadgroup tests/test_backends_*.py $(PYTEST)

faults: .venv/.full
	@$(RUN) -m tests.faults $(FAULTS)

demo: .venv/.core
	@$(RUN) docs/examples/demo.py

bench: .venv/.core
	$(RUN) -m tests.bench $(BENCH)

bench-peers: .venv-peers/.done

# Other projects, each at the version that the page names. A working .recover is built from SQLite's source (npm and a C
# compiler); without these the rest is installed all the same, and the benchmark says what is missing.
.venv-peers/.done: tests/bench/peers.txt tests/bench/peer_recover.sh
	'$(PYTHON)' -m venv .venv-peers
	.venv-peers/bin/python -m pip --disable-pip-version-check install --quiet -r tests/bench/peers.txt
	sh tests/bench/peer_recover.sh "$$PWD/.venv-peers/bin/sqlite3-recover" \
		|| echo "make: no sqlite3 with a working .recover could be built: npm, tar and cc are needed" >&2
	@touch $@

lint: .venv/.dev
	$(PY) -m ruff check .
	$(PY) -m mypy

docs: .venv/.core
	$(PY) docs/generate.py

bench-scale: .venv/.core
	$(RUN) -m tests.bench.scale $(SCALE)

clean:
	rm -rf .venv .venv-* .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
