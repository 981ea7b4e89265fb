# make demo: the whole chain on synthetic data; make test: lint and all fast tests. Both install into .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(abspath $(BIN)):$(PATH)

.PHONY: install demo demo-small test test-slow gpu lint tables clean

install: $(VENV)/.installed

$(VENV)/.installed: setup.py pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --upgrade pip
	$(BIN)/python -m pip install -e ".[test]"
	touch $@

demo: install
	bash demo/run.sh demo_output

demo-small: install
	rm -rf demo_output_small
	CASES=5 EPOCHS=2 ITERATIONS=5 bash demo/run.sh demo_output_small

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# What docs/ shows of the code's own tables: the schema of the manifest, and what is checked in a scan.
tables: install
	$(BIN)/python -c "from nnunetv2_clip.files import write_json; from nnunetv2_clip.manifest import json_schema; \
	  write_json('docs/label_presence.schema.json', json_schema())"
	$(BIN)/python -c "import re; from nnunetv2_clip.files import write_text; from nnunetv2_clip.imaging.findings import table; \
	  page = open('docs/intake.md').read(); write_text('docs/intake.md', re.sub(r'(\\|.*\\n)+', lambda _: table(), page, count=1))"

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not gpu"

test-slow: install
	$(BIN)/python -m pytest -m "slow and not gpu"

# On one NVIDIA card, at most 25 minutes: tables to benchmarks/results/gpu/. A trial without: make gpu GPU="--device cpu --small"
gpu: install
	$(BIN)/python benchmarks/gpu.py $(GPU)

clean:
	rm -rf demo_output demo_output_small build *.egg-info
