# Everything starts here: `make help`. Each target sets up what it needs itself; the second time that takes no time.
# The slow parts (Pulumi CLI, base image) are made once, into $XDG_CACHE_HOME/lifeline or ~/.cache/lifeline.

PYTHON ?= python3
SCENARIO ?= complete-failure
WORKERS ?= 2
LANES ?= 1 2
MB ?= 1000
KILLS ?= 200
SEED ?=
UV := build/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"

VENV := $(CURDIR)/.venv
# Compiled modules are kept whatever the environment says: without them each of pytest's processes rewrites every test anew.
IN_VENV := env -u PYTHONDONTWRITEBYTECODE VIRTUAL_ENV="$(VENV)" PATH="$(VENV)/bin:$$PATH"
TOOLCHAIN := $(VENV)/bin/python -m toolchain
ROOMS := lifeline runbooks lab infra services toolchain tests fabfile.py

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
MAKEFLAGS += --no-builtin-rules

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

##### The two commands

# Packages first, where that can be: no check is skipped then for want of a program. Without root, what can be checked is.
# Tests with real programs or hosts mostly wait: each worker has a lane with a lab of its own. Where a machine allows no
# lanes (a container, say) there is one lab, and all takes twice as long.
.PHONY: test
test: $(if $(filter 0,$(shell id -u)),packages) check setup-lab ## prove everything, the lab included: real hosts, real Pulumi, faults (needs root; half an hour or more; LANES="1 2 3")
	@set --; if $(IN_VENV) python -m tests.lane 1 true; then \
		set -- --basetemp /var/tmp/lifeline-tests --dist loadfile --no-loadscope-reorder \
			$(foreach lane,$(LANES),--tx "popen//python=$(VENV)/bin/python -m tests.lane $(lane) $(VENV)/bin/python"); \
	else echo "this machine allows no lanes: one lab, one test after the other"; fi; \
	$(IN_VENV) LIFELINE_REQUIRE_LAB=1 pytest -m "slow or lab" --timeout 900 "$$@" tests

.PHONY: drill
drill: setup-lab ## rehearse a failover on real hosts and report RTO and RPO (needs root; SCENARIO=complete-failure)
	$(IN_VENV) fab drill --scenario $(SCENARIO)

.PHONY: bench
bench: setup ## measure what is promised in numbers; writes docs/benchmarks.md (MB=1000; ONLY=restores|moments|barrier|writes)
	$(IN_VENV) python -m lab.bench --mb $(MB) $(addprefix --only ,$(ONLY))

.PHONY: kills
kills: setup ## kill service, Litestream, host and store at random moments, and restore after each; writes docs/kills.md (KILLS=200 SEED=)
	$(IN_VENV) python -m lab.kills --kills $(KILLS) $(if $(SEED),--seed $(SEED)) --page docs/kills.md

##### While working

.PHONY: check
check: lint types unit ## lint, types, unit tests: no root, a minute and a half

.PHONY: lint
lint: setup
	$(IN_VENV) ruff check .
	$(IN_VENV) ruff format --check .

.PHONY: types
types: setup
	$(IN_VENV) mypy $(wildcard $(ROOMS))

.PHONY: unit
unit: setup ## unit tests alone
	$(IN_VENV) pytest -m "not lab and not slow" -n $(WORKERS) --dist worksteal --timeout 60 tests

.PHONY: format
format: setup ## put the code into its standard form
	$(IN_VENV) ruff check --fix .
	$(IN_VENV) ruff format .

##### Setting up

.PHONY: setup
setup: $(VENV)/.locked ## the virtual environment, exactly as locked

$(VENV)/.locked: requirements.lock pyproject.toml
	$(PYTHON) -m toolchain venv
	@touch $@

.PHONY: setup-lab
setup-lab: setup ## all that the lab needs: Debian packages, Pulumi, base image, wheels
	@$(TOOLCHAIN) packages image wheels pulumi

.PHONY: packages
packages: setup
	@$(TOOLCHAIN) packages

.PHONY: toolchain
toolchain: setup ## the Pulumi CLI alone: the one on PATH, or built once (about 5 min)
	@$(TOOLCHAIN) pulumi

.PHONY: lab-image
lab-image: setup ## the droplets' base image alone (about 1 min; needs root)
	@$(TOOLCHAIN) packages image

.PHONY: status
status: setup ## what is set up and what isn't
	@$(TOOLCHAIN) status

.PHONY: lock
lock: ## renew the lock files from pyproject.toml and toolchain/*.in
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(UV) --extra operator --extra lab --extra dev pyproject.toml -o requirements.lock
	$(UV) toolchain/host-requirements.in -o toolchain/host-requirements.txt
	$(UV) toolchain/go-requirements.in -o toolchain/go-requirements.txt

##### Tidying up

.PHONY: lab-down
lab-down: setup ## stop the lab and remove all of it: processes, mounts, interfaces, state
	$(IN_VENV) fab lab.down

.PHONY: clean
clean: ## remove what checks and tests leave in the checkout
	rm -rf build .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find . -path ./.venv -prune -o -name __pycache__ -type d -print0 | xargs -0 rm -rf

.PHONY: distclean
distclean: clean ## the same, and the virtual environment; caches outside the checkout stay
	rm -rf $(VENV)
