# Everything a developer or an operator on trial needs: `make demo`, `make test`.
# Needs make and Python 3.11 or later; the rest comes from requirements.lock, hashes checked,
# into .venv. ARGS are passed on: make test ARGS="-k parser -x", make demo ARGS="--nodes 50".

PYTHON ?= python3
ARGS ?=
UV := 0.13.9

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
# A demo needs a third of the lock. Without a current .venv it gets a small environment of its own.
TRIAL := $(if $(shell find $(READY) -newer requirements.lock -newer pyproject.toml 2>/dev/null),$(VENV),build/demo)
PIP := -m pip --disable-pip-version-check
EPOCH = $(shell git log -1 --format=%ct 2>/dev/null || echo 1767225600)

# Each test of a whole relayd starts it again: without compiled files that takes a third longer.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo test torture lint format faults faults-check bench lock wheel deb sbom man selinux clean

help:  ## Show the targets
	@sed -n 's/^\([a-z-]*\):.*##/  make \1 -/p' $(MAKEFILE_LIST)

install: $(READY)  ## Make .venv from the lock, unless it is there and current

# The editable install takes its build backend from the lock too: nothing unpinned is fetched.
# `pip check` finds a lock that was not made again after the dependencies changed.
$(READY): requirements.lock pyproject.toml
	$(call new-venv,$(VENV))
	@echo "Making $(VENV) from requirements.lock"
	@$(BIN)/python $(PIP) install --root-user-action=ignore --require-hashes -r requirements.lock
	@$(BIN)/python $(PIP) install --root-user-action=ignore --no-deps --no-build-isolation -e .
	@$(BIN)/python $(PIP) check
	@touch $@

build/demo/.installed: requirements.lock pyproject.toml tools/lock.py
	@echo "Making build/demo from requirements.lock: what a demo needs, about half a minute"
	$(call new-venv,build/demo)
	@$(PYTHON) -m tools.lock --extra demo > build/demo/requirements.txt
	@build/demo/bin/python $(PIP) install --quiet --root-user-action=ignore --no-compile \
	  --require-hashes -r build/demo/requirements.txt
	@touch $@

define new-venv
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
  echo "relayd needs Python 3.11 or later as $(PYTHON); name another: make PYTHON=python3.12" >&2; \
  exit 1; }
@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
  echo "$(PYTHON) cannot make virtual environments; on Debian or Ubuntu: apt install python3-venv" >&2; \
  exit 1; }
@$(PYTHON) -m venv --clear $(1)
endef

demo: $(TRIAL)/.installed  ## A fleet, a database and relayd on this machine, live in the terminal
	@$(TRIAL)/bin/python -m relayd demo $(ARGS)

# Most tests wait for processes: four workers keep two cores busy. Chosen tests run in one process,
# where starting workers would take longer than the tests and -s or --pdb work.
JOBS ?= $(if $(strip $(ARGS)),0,4)
test: $(READY)  ## The tests, long campaigns left out
	@$(BIN)/python -m pytest -m "not torture" -n $(JOBS) $(ARGS)

torture: $(READY)  ## The long campaigns: crash points, fuzzing, faults under load
	@$(BIN)/python -m pytest -m torture --timeout 0 -o faulthandler_timeout=0 $(ARGS)

lint: $(READY)  ## Style, format, types and the layers of the package
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy relayd tests benchmarks tools
	@said=$$($(BIN)/lint-imports --no-logo --no-cache) || { echo "$$said"; exit 1; }

format: $(READY)  ## Format the sources
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

faults: $(READY)  ## Write docs/faults.md: which test proves which fault
	@$(BIN)/python tools/faults.py

faults-check: $(READY)  ## Fail on a fault without a test, or when docs/faults.md is stale
	@$(BIN)/python tools/faults.py --check

bench: $(READY)  ## Speed, against a floor and a limit measured in the same run
	@$(BIN)/python -m benchmarks $(ARGS)

# Versions that are in the lock stay; ARGS=--upgrade moves them all.
lock:  ## Make requirements.lock again, for Python 3.11 and later
	@$(PYTHON) -m venv build/lock
	@build/lock/bin/python -m pip install -q --disable-pip-version-check uv==$(UV)
	@$(PYTHON) -c 'import tomllib; \
	  requires = tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"]; \
	  print(*requires, "editables", sep="\n")' > build/lock/build.in
	@build/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-emit-find-links --extra demo --extra dev \
	  --custom-compile-command "make lock" $(ARGS) \
	  pyproject.toml build/lock/build.in --output-file requirements.lock

# Of one commit, the same bytes on any machine: what is built carries the commit's date.
wheel: $(READY)  ## dist/relayd-*.whl
	@SOURCE_DATE_EPOCH=$(EPOCH) $(BIN)/python -m pip wheel --quiet --disable-pip-version-check \
	  --no-deps --no-build-isolation --wheel-dir dist .

deb: $(READY)  ## dist/relayd_*.deb, for this machine's Debian and architecture
	@SOURCE_DATE_EPOCH=$(EPOCH) $(BIN)/python -m tools.deb dist

sbom: $(READY)  ## Write the bill of materials and docs/licences.md from the lock
	@$(BIN)/python -m tools.sbom

man: $(READY)  ## The man pages, in build/man
	@SOURCE_DATE_EPOCH=$(EPOCH) $(BIN)/python -m tools.manpages build/man

selinux:  ## The SELinux module, build/selinux/relayd.pp
	@mkdir -p build/selinux
	@cp selinux/relayd.* build/selinux/
	@$(MAKE) --no-print-directory -C build/selinux -f /usr/share/selinux/devel/Makefile relayd.pp

clean:  ## Remove what make and the tools made
	@rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
	@find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
