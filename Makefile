# Everything a reader or a maintainer does, one word each. "make" alone prints the list.
# Needs Python 3.11+, pip, make and git; the rest is installed into .venv on first use.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip
PYTEST := $(PY) -m pytest -q
# two processes of one thread each: threads of several processes would wait for each other
TWO := -n 2 --dist loadscope
NBVAL := --nbval-lax --nbval-current-env --nbval-cell-timeout=600

# Data sets that lie beside the repository are used instead of a download; TUTOR_DATA= (empty) forbids it.
ifneq ($(wildcard ../shared/data),)
TUTOR_DATA ?= $(abspath ../shared/data)
endif
ifneq ($(strip $(TUTOR_DATA)),)
export TUTOR_DATA
else
unexport TUTOR_DATA
endif

.DEFAULT_GOAL := help
.PHONY: help book test lint unit equations doctest slow test-notebooks test-book lab notebooks bench \
        constraints clean

help: ## print this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) \
	  | while IFS='|' read -r name text; do printf '  make %-15s %s\n' "$$name" "$$text"; done

# --- the environment: made once, brought up to date when the lists of packages change ---------

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) -V 2>&1)." \
	       "Name another one: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "make: $(PYTHON) could not make a virtual environment (Debian and Ubuntu: install python3-venv)."; exit 1; }

$(VENV)/.book: pyproject.toml constraints.txt | $(PY)
	@echo "installing what the book needs into $(VENV); the first time takes some minutes"
	@$(PIP) install --quiet --disable-pip-version-check -c constraints.txt -e '.[book]'
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(PY)
	@echo "installing what the tests need into $(VENV); the first time takes some minutes"
	@$(PIP) install --quiet --disable-pip-version-check -c constraints.txt -e '.[book,test]'
	@touch $(VENV)/.book $@

# --- reading ----------------------------------------------------------------------------------

# The staged copy has the repository's layout, so that every link to Colab or to a source file is a
# path of the repository. Notebooks carry their outputs: nothing is executed here.
STAGE := book/_build/src

book: $(VENV)/.book ## build the book: open book/_build/html/index.html
	rm -rf book/_build
	mkdir -p $(STAGE)/book
	cp -Rp $(filter-out book/_build,$(wildcard book/*)) $(STAGE)/book/
	cp -Rp notebooks $(STAGE)/
	if [ -d benchmarks/results ]; then mkdir -p $(STAGE)/benchmarks; cp -Rp benchmarks/results $(STAGE)/benchmarks/; fi
	$(VENV)/bin/jupyter-book build $(STAGE) --config book/_config.yml --toc book/_toc.yml \
	  --path-output book -W --keep-going
	@test -f book/_build/html/index.html
	@echo "The book is at book/_build/html/index.html"

lab: $(VENV)/.book ## open the notebooks in JupyterLab
	$(VENV)/bin/jupyter-lab notebooks

# --- testing: what fails fastest comes first ----------------------------------------------------

test: $(VENV)/.test ## run every test, the quick ones first (about fifteen minutes on two cores)
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory unit
	@$(MAKE) --no-print-directory doctest
	@$(MAKE) --no-print-directory slow
	@$(MAKE) --no-print-directory test-notebooks
	@$(MAKE) --no-print-directory test-book

lint: $(VENV)/.test ## style and spelling, notebooks included
	$(PY) -m ruff check .
	$(VENV)/bin/codespell $$(git ls-files '*.py' '*.md' '*.toml' '*.yml' '*.cff')

unit: $(VENV)/.test ## quick unit and equation tests
	OMP_NUM_THREADS=1 $(PYTEST) $(TWO) -x -m "not browser and not slow"

equations: $(VENV)/.test ## test the book's equations and write what was measured for the appendix
	OMP_NUM_THREADS=1 $(PYTEST) $(TWO) tests/equations --write-equations

doctest: $(VENV)/.test ## the examples in the docstrings
	OMP_NUM_THREADS=1 $(PYTEST) $(TWO) -x --doctest-modules src tools

slow: $(VENV)/.test ## the tests that take longer than seconds
	OMP_NUM_THREADS=1 $(PYTEST) $(TWO) -m "slow and not browser" || test $$? -eq 5

test-notebooks: $(VENV)/.test ## every notebook in a fresh kernel
	$(PY) tools/notebooks.py check
	OMP_NUM_THREADS=1 TUTOR_STATIC_WIDGETS=1 $(PYTEST) $(TWO) $(NBVAL) notebooks

test-book: $(VENV)/.test ## build the book and try its pages in Chromium
	@$(MAKE) --no-print-directory book
	$(PYTEST) -rs -m browser

# --- making -------------------------------------------------------------------------------------

notebooks: $(VENV)/.book ## execute all notebooks in place and stamp where their outputs come from
	$(PY) tools/notebooks.py execute
	$(PY) tools/notebooks.py check

# pythae in an environment of its own, which sees all that .venv has; without it a stand-in runs.
BENCH := build/bench
$(BENCH)/.done: benchmarks/requirements.txt $(VENV)/.test
	@rm -rf $(BENCH) && $(PY) -m venv $(BENCH)
	@$(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	  > $$($(BENCH)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/project.pth
	@echo "$(abspath src)" >> $$($(BENCH)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/project.pth
	@$(BENCH)/bin/pip install --quiet --disable-pip-version-check --no-deps -r benchmarks/requirements.txt \
	  || echo "make: pythae could not be installed; a stand-in takes its place in the benchmark"
	@touch $@

bench: $(BENCH)/.done ## time training and metrics on the CPU beside other libraries (about ten minutes)
	$(BENCH)/bin/python -m benchmarks.cpu
	$(BENCH)/bin/python -m benchmarks.evaluation

constraints: $(VENV)/.test ## write constraints.txt from .venv
	@sed -n '/^#/p' constraints.txt > $(VENV)/constraints
	@$(PIP) freeze --all --exclude-editable | grep -v -e '^pip==' -e '^#' -e ' @ ' | sed 's/+[a-z0-9]*$$//' \
	  | LC_ALL=C sort -f >> $(VENV)/constraints
	@mv $(VENV)/constraints constraints.txt

clean: ## delete what was built, the environment included
	rm -rf $(VENV) book/_build build dist src/*.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
