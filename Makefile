# make demo | test | check | clean.  PYTHON=python3.12 picks the interpreter of .venv.
PYTHON ?= python3
BIN    := .venv/bin
MODEL  := examples/shakespeare
ENGINE := demo-engine

.PHONY: demo test check lint clean

demo: .venv/.onnx
	$(BIN)/trtc compile $(MODEL) -o $(ENGINE) --target onnx
	$(BIN)/trtc run $(ENGINE) --prompt "ROMEO:" --max-new-tokens 120 --temperature 0.7 --top-k 40 --seed 2
	@echo
	@echo "The engine's graph is $(ENGINE)/graph.trtc, $$(grep -c ' = ' $(ENGINE)/graph.trtc) lines such as"
	@grep -m 2 -E "rms_norm|linear" $(ENGINE)/graph.trtc
	@echo
	@echo "Next:"
	@echo "  . $(BIN)/activate"
	@echo "  trtc inspect $(ENGINE)                               # what the engine is"
	@echo "  trtc dump $(MODEL) --stage import          # the graph before the passes"
	@echo "  trtc compile $(MODEL) --dry-run --explain  # what each rule did, and why not"
	@echo "  trtc doctor                                            # what this machine can build and run"

test: .venv/.dev
	$(BIN)/python -m pytest -q -n auto --dist loadgroup

check: lint test

lint: .venv/.dev
	$(BIN)/ruff check
	$(BIN)/pyright --pythonpath $(BIN)/python

clean:
	rm -rf .venv $(ENGINE) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis

# Each stamp is as new as pyproject.toml: what it lists is installed.
.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.onnx: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet -e '.[onnx]'
	@touch $@

.venv/.dev: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet -e '.[cuda,onnx,rtx,dev]'
	@touch $@ .venv/.onnx
