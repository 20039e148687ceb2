# Everything this repository can do. `make demo` and `make test` work on a machine that has only
# python3 (3.10 to 3.12): they make .venv and install into it what they need, once.

SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest -q
# Small models, no windows, no network, one thread for each of the two workers.
TEST_ENV := TLD_TINY=1 MPLBACKEND=agg OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TQDM_DISABLE=1
NBDEV_TEST := $(TEST_ENV) $(BIN)/nbdev_test --n_workers 2

.PHONY: help demo test test-slow sync lint test-notebooks test-files export clean readme regenerate \
        notebooks thumbnails train-autoencoder train-text-encoder train-shipped train-few-steps \
        train-high-resolution train-outpainting measure evaluate bench \
        mutations docs wheel

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 20

# ---- installing ----

INSTALL = @{ test -x $(BIN)/pip || $(PYTHON) -m venv .venv; } && \
	echo "Installing into .venv (several GB the first time, a few minutes) ..." && \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check

.venv/.package: settings.ini setup.py pyproject.toml
	$(INSTALL) -e .
	@touch $@

.venv/.dev: settings.ini setup.py pyproject.toml
	$(INSTALL) -e ".[dev]"
	@touch $@ .venv/.package

# ---- the two commands of the README ----

demo: .venv/.package  ## draw twelve prompts with four seeds each: demo.png
	$(BIN)/tld demo -o demo.png

test: .venv/.dev  ## run everything below that checks; the summary of pytest comes last
	@failed=""; \
	for part in sync lint test-notebooks test-files; do \
	  echo "== $$part"; $(MAKE) --no-print-directory $$part || failed="$$failed $$part"; \
	done; \
	if [ -n "$$failed" ]; then echo "make test: failed:$$failed" >&2; exit 1; fi

# ---- the parts of `make test` ----

sync: .venv/.dev  ## check that modules, links and README are what the notebooks say
	$(BIN)/python .ci/sync.py

lint: .venv/.dev  ## check the form of notebooks and code
	$(BIN)/python .ci/lint_notebooks.py
	$(BIN)/ruff check .

test-notebooks: .venv/.dev  ## run every notebook and solution, without slow cells
	$(NBDEV_TEST)

test-files: .venv/.dev  ## run what notebooks cannot test
	$(TEST_ENV) $(PYTEST) -m "not slow" tests/

test-slow: .venv/.dev  ## run the slow cells and the slow tests too (not part of `make test`)
	$(NBDEV_TEST) --flags slow
	$(TEST_ENV) $(PYTEST) -m slow tests/ || test $$? = 5  # 5: no test is marked slow

# ---- writing: the notebooks are the source ----

export: .venv/.dev  ## write tld/*.py from the notebooks
	$(BIN)/nbdev_export

clean: .venv/.dev  ## strip the notebooks of what does not belong in git
	$(BIN)/nbdev_clean

readme: .venv/.dev  ## write README.md from nbs/index.ipynb
	$(BIN)/python .ci/readme.py

regenerate: .venv/.dev  ## all three, after making every link follow settings.ini
	$(BIN)/python .ci/links.py
	$(BIN)/nbdev_clean
	$(BIN)/nbdev_export
	$(BIN)/python .ci/readme.py

notebooks: .venv/.dev  ## execute all notebooks and solutions in order, in place
	$(BIN)/python .ci/run_notebooks.py
	$(BIN)/python .ci/thumbnails.py

thumbnails: .venv/.dev  ## cut the pictures of the map in the README out of the notebooks
	$(BIN)/python .ci/thumbnails.py

# ---- making the shipped weights, in this order; each goes on where it stopped ----

train-autoencoder: .venv/.package  ## train the small autoencoder
	$(BIN)/tld train-autoencoder

train-text-encoder: .venv/.package  ## train the small CLIP
	$(BIN)/tld train-text-encoder

train-shipped: .venv/.package  ## train the denoiser, and measure it
	$(BIN)/tld train-shipped

train-few-steps: .venv/.package  ## distil the denoiser to few steps
	$(BIN)/tld train-few-steps

train-high-resolution: .venv/.package  ## fine-tune the denoiser to 256 pixels
	$(BIN)/tld train-high-resolution

train-outpainting: .venv/.package  ## fine-tune the denoiser to paint what a mask leaves open
	$(BIN)/tld train-outpainting

measure: .venv/.package  ## print all measures of the shipped model, about ten minutes; resumes
	@mkdir -p runs
	$(BIN)/tld measure -o runs/measures.json

evaluate: .venv/.dev  ## measure the shipped model at length; goes on where it stopped
	$(BIN)/python benchmarks/evaluate.py

# ---- the rest ----

LONG := evaluate autoencoder text_encoder recipes mutations   # these run for an hour or more
bench: .venv/.dev  ## measure speeds
	@for script in $(filter-out $(LONG:%=benchmarks/%.py),$(wildcard benchmarks/[a-z]*.py)); do echo "== $$script"; $(BIN)/python $$script || exit 1; done

mutations: .venv/.dev  ## run the notebooks of 60 mutations of the method; goes on where it stopped
	$(BIN)/python benchmarks/mutations.py

docs: .venv/.dev  ## the notebooks as web pages, in _docs/
	$(BIN)/python .ci/docs.py

wheel: .venv/.dev  ## build dist/*.whl
	@rm -rf build
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation -w dist .
