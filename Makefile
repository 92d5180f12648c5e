# SPDX-License-Identifier: Apache-2.0
# Developers' commands. `make check` is what CI runs; PYTHON picks another interpreter.
PYTHON ?= $(if $(wildcard .venv/bin/python),.venv/bin/python,python3)
COMPILE = uv pip compile pyproject.toml --universal --python-version 3.10 --quiet \
          --no-annotate --no-header --upgrade

.PHONY: check lint format test lock clean

check:  ## lint, then every test, in the environment that run.sh keeps
	CI=true bash .ci/run

lint:
	$(PYTHON) -m ruff check .

format:
	$(PYTHON) -m ruff check --fix .

test:
	bash run.sh test

# One common resolution first, so that every extra fits beside every other. The GPU build and the
# `nlp` extra limit protobuf, so their locks are resolved against all other pins.
lock: requirements/.common
	$(COMPILE) --extra cpu -c requirements/.common -o requirements/cpu.txt
	for extra in demo video metrics log dev; do \
	  $(COMPILE) --extra $$extra -c requirements/.common -o requirements/$$extra.txt || exit 1; \
	done
	grep -v '^protobuf==' requirements/.common > requirements/.limits
	for extra in gpu nlp; do \
	  $(COMPILE) --extra $$extra -c requirements/.limits -o requirements/$$extra.txt || exit 1; \
	done
	rm -f requirements/.common requirements/.limits

requirements/.common: pyproject.toml
	printf '%s\n' 'huggingface_hub<1' 'fsspec<=2025.3.0' 'pandas<3' > requirements/.bounds
	$(COMPILE) --extra cpu --extra demo --extra video --extra metrics --extra log --extra dev \
	  -c requirements/.bounds -o $@
	rm -f requirements/.bounds

clean:  ## caches only: never weights, data or results
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -rf .pytest_cache .ruff_cache
