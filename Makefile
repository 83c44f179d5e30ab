# make run      the default study, from scratch to certificates and a report
# make test     the tests
# make check    everything CI checks before it runs the study: style, types, lint, tests
# make help     the other targets
#
# Variables: PYTHON=/path/to/python3.12  CORES=4  ARGS="--configfile config/studies/smollm2.yaml"  ANTIBODIES=no  VERBOSE=1

PYTHON ?= python3
VENV ?= .venv
CORES ?= all
ANTIBODIES ?= yes
BIN := $(VENV)/bin
export PYTHON VENV
# Snakemake's own tools and the tests' subprocesses must find the environment first.
export PATH := $(CURDIR)/$(BIN):$(PATH)

# The terminal shows stages and progress bars; VERBOSE=1 and dry runs show what Snakemake itself prints.
LOGGER := $(if $(VERBOSE)$(filter -n --dry-run --dryrun,$(ARGS)),,--logger tokenbounds)

PYTEST := $(BIN)/python -m pytest
TESTING := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 POLARS_MAX_THREADS=1 TOKENIZERS_PARALLELISM=false \
	HF_HUB_OFFLINE=1 MPLBACKEND=Agg

.PHONY: run antibody-demo test coverage check style types lint docs generate lock release slurm-test browser-test bench \
	clean help install install-dev install-antibodies

run: install  ## run the study (config/config.yaml, or ARGS="--configfile ..."), then a minute of antibodies
	@$(BIN)/python workflow/check_config.py $(ARGS)
	@workflow/unlock.sh $(ARGS)
	@$(BIN)/snakemake --rerun-incomplete --cores $(CORES) $(ARGS) $(LOGGER)
	@$(if $(ARGS),:,$(MAKE) --no-print-directory antibody-demo)

antibody-demo: install
	@if [ "$(ANTIBODIES)" != yes ]; then echo "antibodies: left out (ANTIBODIES=$(ANTIBODIES))"; \
	elif envs/install.sh antibodies >/dev/null 2>&1; \
	then $(BIN)/snakemake --rerun-incomplete --cores $(CORES) $(LOGGER) --configfile config/studies/antibody-demo.yaml; \
	else echo "antibodies: left out, as the extra 'antibodies' cannot be installed here; see docs/antibody.md"; fi

test: install-dev  ## run the tests
	$(TESTING) $(PYTEST) -n 2 --dist loadfile --no-loadscope-reorder -m "not slurm and not browser" $(ARGS)

coverage: install-dev  ## run the tests, and list the lines that they do not reach; a third slower
	@$(MAKE) --no-print-directory test ARGS='--cov --cov-report=term:skip-covered $(ARGS)'

check: style types lint test  ## all the gates; the tests include the tiny workflow

style: install-dev  ## ruff and snakefmt
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow/rules

types: install-dev  ## mypy
	$(BIN)/mypy

lint: install-dev  ## snakemake's own advice
	$(BIN)/snakemake --lint

docs: install-dev  ## build the documentation site into site/; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

generate: install-dev  ## write config/README.md and the JSON schema again, from the types in tokenbounds.config
	$(BIN)/python -m tokenbounds.config.docs

lock:  ## write envs/*.lock again, from pyproject.toml
	envs/lock.sh

release:  ## build wheel and sdist of the last commit into dist/, and try the wheel in a fresh environment
	envs/release.sh

slurm-test: install-dev  ## bring up a SLURM (as root, on Debian), run a small study through it, stop it
	tests/slurm/run.sh

browser-test: install-dev  ## look at the report in Chromium: screens, colours, accessibility (SCREENSHOTS=folder)
	$(BIN)/python -m pip install --quiet --upgrade --target .browser -r tests/report/browser-requirements.txt
	$(TESTING) PYTHONPATH=.browser $(PYTEST) -m browser tests/report/test_report_in_browser.py $(ARGS)

bench: install-dev  ## speed and memory, printed as ratios within one run
	$(BIN)/python -m benchmarks $(ARGS)

clean:  ## remove results, logs and caches; the environment stays
	rm -rf results logs site dist .browser .snakemake .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage htmlcov

install:
	@envs/install.sh run

install-dev:
	@envs/install.sh dev

install-antibodies:  ## add numbering and demo sequences of antibodies (optional; some packages are AGPL-3)
	@envs/install.sh antibodies

help:  ## this list
	@awk -F ':[^#]*## ' '/^[a-z-]+:.*## / { printf "%-20s%s\n", $$1, $$2 }' Makefile
