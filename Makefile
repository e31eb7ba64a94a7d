# `make demo` and `make test` on a fresh clone do all their own set-up in .venv.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
# Where no GPU is present the small CPU build is enough. Override to bring your own: make test TORCH="torch==2.11.0"
TORCH ?= $(if $(shell nvidia-smi -L 2>/dev/null),torch,torch==2.13.0)
JOBS ?= 2
# Apart from the rest, and without what they ask for: open_clip asks for torchvision, which would bring a torch of its own,
# and beside whose compiled part, when that is another torch's, transformers does not load. Only CLIP's tests see them.
CLIP := $(VENV)/clip
SOURCES := Makefile pyproject.toml setup.py $(shell find csrc -type f)

.PHONY: install demo test lint sanitize mutants bench results torture adversarial wheel docs clean

install: $(VENV)/.installed

# Without build isolation: the extension is built against the torch that is installed, not against another one. pip
# keeps to itself what a build says that comes to an end, so that the last line asks whether there is an extension.
$(VENV)/.installed: $(SOURCES)
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip "setuptools>=77" wheel
	$(RUN) -m pip install --quiet "$(TORCH)" numpy ninja
	$(RUN) -m pip install --quiet --no-build-isolation --editable ".[demo,train,data,triton,tiktoken,tensorboard,export,lora,parquet,docs,dev]"
	$(RUN) -m pip install --quiet --no-deps --upgrade --target $(CLIP) open_clip_torch timm torchvision ftfy wcwidth torch-fidelity
	@$(RUN) -c 'import sys; from spae_ops._extension import reason; sys.stderr.write(f"{reason()}\n" if reason() else "")'
	touch $@

demo: install
	$(RUN) -m spae fetch smollm2
	$(RUN) -m spae demo

# File by file on JOBS processes of one thread each; tests of threads set their own number.
test: install
	$(RUN) -m spae fetch smollm2
	OMP_NUM_THREADS=1 $(RUN) -m pytest --numprocesses $(JOBS) --dist loadfile
	PYTHONPATH=$(CLIP) OMP_NUM_THREADS=1 $(RUN) -m pytest tests/scorers/test_open_clip.py tests/eval/test_inception.py

# Minutes: the C++ of the CPU operators under the thread, address and undefined-behaviour sanitizers.
sanitize: install
	sh tests/spae_ops/threads/sanitize.sh $(RUN)

# An hour or so, not in CI: changes one constant, fence or offset of the lookup's kernels at a time; a test must fail.
mutants: install
	nice -n 5 $(RUN) tests/mutants/run.py

lint: install
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m pyright

bench: install
	$(RUN) -m pip install --quiet --no-build-isolation --editable ".[bench]"
	$(RUN) -m spae fetch smollm2
	$(RUN) -m benchmarks lookup

# RESULTS.md and its plots, from the committed JSON.
results: install
	PYTHONPATH=. $(RUN) tools/results.py

# An sdist and a wheel in dist/, tried in an environment with nothing else.
wheel: install
	$(RUN) -m spae fetch smollm2
	$(RUN) tools/wheel.py

# The documentation, in site/; a link or a name that leads nowhere is an error.
docs: install
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict

# Kills processes at random moments and checks that nothing is lost, 150 in all; a quarter of an hour, not in CI.
torture: install
	$(RUN) tests/torture/kills.py --kills 25
	$(RUN) tests/torture/train_kills.py --kills 25

# An hour, not in CI: ten million queries to each implementation of the lookup; goes on where it stopped.
adversarial: install
	$(RUN) tests/torture/queries.py

clean:
	rm -rf $(VENV) build dist site *.egg-info spae_ops/*.so
