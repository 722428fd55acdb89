# make demo   the main job on the built-in model     make test   every check     make mutants   do the tests bite?
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(abspath $(VENV))/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
OUT    ?= demo
TESTS  ?=

.PHONY: demo test test-slow test-gpu lint mutants bench showcase clean

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# torch goes first and by its exact version: a range would let pip choose another build of it.
$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -q --upgrade "setuptools>=77"
	$(PIP) install -q "$$(grep '^torch==' constraints.txt)"
	$(PIP) install -q --no-build-isolation -c constraints.txt -e ".[export,ort]"
	touch $@

$(VENV)/.test: $(VENV)/.demo
	$(PIP) install -q --no-build-isolation -c constraints.txt -e ".[export,ort,rtx,audio,junit,dev,peers]"
	touch $@

demo: $(VENV)/.demo
	$(BIN)/tokexport model --method apet --ratio 0.85 -o $(OUT)
	$(BIN)/python -m tokexport.exporter.zoo.tiny_vlm.demo $(OUT)

test: $(VENV)/.test lint
	cd tests && $(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not slow" $(TESTS)

test-slow: $(VENV)/.test
	cd tests && $(BIN)/python -m pytest -q -m slow

# mypy must see the folder under its package name, whatever the checkout is called.
# On a machine with an NVIDIA GPU, nvcc, cmake and a torch built for CUDA: each kernel against its PyTorch reference.
test-gpu: $(VENV)/.test
	cd tests && $(BIN)/python -m pytest -q -rs gpu

lint: $(VENV)/.test
	mkdir -p build/types && ln -sfn ../.. build/types/tokexport
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy -p tokexport

mutants: $(VENV)/.test
	$(BIN)/python tests/mutants/run.py

bench: $(VENV)/.test
	for script in benchmarks/bench_*.py; do $(BIN)/python $$script || exit 1; done

# Both sweeps, the overlay picture, and the README's tables of them.
showcase: $(VENV)/.test
	$(BIN)/python benchmarks/showcase.py

clean:
	rm -rf $(VENV) build demo
