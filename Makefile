# `make demo` and `make test` work on a fresh clone; everything else is for those who change edgebuild.
PYTHON ?= python3
BIN := .venv/bin
DEMO := examples/fashion-mnist/releases

.PHONY: setup demo test lint format proofs proof-gpu step-lock docs clean

setup: .venv/.stamp

.venv/.stamp: pyproject.toml constraints.txt examples/requirements.txt examples/requirements-no-deps.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "edgebuild needs Python 3.11 or newer: make PYTHON=python3.11 …")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,dev]' -r examples/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r examples/requirements-no-deps.txt
	touch $@

demo: setup
	$(BIN)/edgebuild build --project examples/fashion-mnist --target this-machine --recipe none --time 4m
	@echo
	$(BIN)/edgebuild report --project examples/fashion-mnist
	@echo
	rm -rf $(DEMO) && mkdir -p $(DEMO)
	openssl genpkey -algorithm ed25519 -out $(DEMO)/demo.key && openssl pkey -in $(DEMO)/demo.key -pubout -out $(DEMO)/demo.pub
	$(BIN)/edgebuild release create --project examples/fashion-mnist --version 1.0 --out $(DEMO)/fashion-mnist-1.0
	$(BIN)/edgebuild release sign $(DEMO)/fashion-mnist-1.0 --key $(DEMO)/demo.key
	$(BIN)/edgebuild release verify $(DEMO)/fashion-mnist-1.0 --key $(DEMO)/demo.pub --here

# A process a core, four at most: most tests wait for processes of their own. One file's tests share what they built.
# Compiled first: the tests start edgebuild hundreds of times, also where Python is told to write no bytecode.
test: setup
	$(BIN)/python -m compileall -q edgebuild tests
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Slow evidence: every proof can be run alone (`make proofs K=equivalence`) and goes on where it was. Without K the
# techniques' rows follow, which write docs/results/techniques.md; one alone: `python benchmarks/techniques.py --row NAME`.
proofs: setup
	$(BIN)/python -m pytest -m proof $(if $(K),-k $(K))
	$(if $(K),,$(BIN)/python benchmarks/techniques.py)

# The entire TensorRT check: needs an NVIDIA GPU and TensorRT, exits with 6 elsewhere.
proof-gpu: setup
	$(BIN)/python benchmarks/proof_gpu.py

# After changing what a step does (raise its version) or only how (its code digest changes): write the lock file anew.
step-lock: setup
	$(BIN)/python tests/execution/step_lock.py

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis dist
