# Two commands do everything on a fresh machine: `make run` and `make test`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test lint lock gpu gpu-test full-test s3diff-mini srdiff-mini timing clean

run: .venv/installed
	-@$(BIN)/srbench weights fetch --metrics
	$(BIN)/srbench run

test: .venv/installed lint
	-@$(BIN)/srbench weights fetch --metrics
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder --benchmark-disable -m "not full and not timing"

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# All that a CUDA machine is asked for, to the end of a budget; the next call goes on (see the script).
gpu: .venv/installed
	.ci/gpu

gpu-test: .venv/installed
	$(BIN)/pytest -m gpu

full-test: .venv/installed
	$(BIN)/pytest -m full

# The small S3Diff, from photographs to weights: a bit over an hour of one core.
s3diff-mini: .venv/installed
	-@$(BIN)/srbench weights fetch --metrics
	$(BIN)/python -m pipelines.s3diff.mini --out runs/s3diff-mini

# The small SRDiff network, from photographs to weights: half an hour of one core.
srdiff-mini: .venv/installed
	$(BIN)/python -m pipelines.srdiff.mini --out runs/mini

timing: .venv/installed
	$(BIN)/pytest -m timing

# pip brings uv, uv installs the pinned and hashed environment: seconds instead of minutes. Bytecode is
# compiled now: imports are most of a short run.
.venv/installed: requirements.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --require-hashes \
		-r requirements.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@

lock:
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-annotate \
		--no-header --python-version 3.11 --extra test --extra dev pyproject.toml -o requirements.txt

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache
