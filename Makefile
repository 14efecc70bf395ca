# Everything is a target. `make` alone lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python -m labkit
SLUGS := $(shell ls -d labs/[0-9][0-9]-* 2>/dev/null | sed 's/.*[0-9][0-9]-//')

.PHONY: help labs progress doctor certs test peers lint bench clean setup $(SLUGS)

help:
	@echo "A networking lab on real sockets. Begin with:  make tcp"
	@echo
	@echo "  make <lab>            predict, run and see the experiments     labs: $(SLUGS)"
	@echo "  make <lab> EXP=name   only one of them                         (PREDICT=0: no questions)"
	@echo "  make <lab>-server     its server on loopback, in one terminal"
	@echo "  make <lab>-client     its client, in another"
	@echo "  make <lab>-capture    record both live"
	@echo "  make <lab>-check      check your exercise                      (WATCH=1: whenever you save)"
	@echo "  make <lab>-hint       a hint for the step you are at"
	@echo "  make <lab>-exercise   run your exercise as a server, to talk to it by hand"
	@echo "  make <lab>-quiz       questions answered from your own packets"
	@echo "  make <lab>-reset      forget your progress in it"
	@echo "  make wireshark-<lab>  open its capture in Wireshark"
	@echo
	@echo "  make labs             the labs, and how far you are"
	@echo "  make progress         the same"
	@echo "  make doctor           what this machine can do, and how to get the rest"
	@echo "  make certs            the lab's certificates"
	@echo "  make test lint bench fuzz   for those who change the lab"
	@echo "  make clean            remove captures and set-up; your exercises and progress stay"

# --- Set-up: once, and again only when the pinned packages change. --------------------------------

# A Python that has moved away (an upgrade) leaves the set-up without its interpreter: then begin anew.
ifneq ($(wildcard $(VENV)/.lab),)
ifneq ($(shell test -x $(VENV)/bin/python && echo there),there)
$(shell rm -f $(VENV)/.lab $(VENV)/.dev $(VENV)/bin/python*)
endif
endif

$(VENV)/.lab: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "This lab needs Python 3.11 or newer as $(PYTHON) (found: $$($(PYTHON) --version 2>&1 | head -1)). Try: make PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "Python's venv module is missing. On Debian or Ubuntu: sudo apt install python3-venv" >&2; exit 2; }
	@echo "Setting up once (about half a minute) ..."
	@rm -f $@ && $(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock 2> $(VENV)/pip.log || { \
	  echo "The packages could not be installed: $$(grep -E '^ERROR' $(VENV)/pip.log | tail -1)" >&2; \
	  echo "Set-up needs the network once. The whole log is in $(VENV)/pip.log" >&2; exit 2; }
	@touch $@

$(VENV)/.dev: $(VENV)/.lab requirements-dev.lock
	@echo "Setting up the test tools once ..."
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock 2> $(VENV)/pip.log || { \
	  echo "The test tools could not be installed: $$(grep -E '^ERROR' $(VENV)/pip.log | tail -1)" >&2; exit 2; }
	@touch $@

setup: $(VENV)/.lab

# --- The labs, by pattern. ------------------------------------------------------------------------

$(SLUGS): %: $(VENV)/.lab
	@$(RUN) run $* $(if $(EXP),--exp '$(EXP)') $(if $(VANTAGE),--vantage '$(VANTAGE)')

%-server: $(VENV)/.lab
	@$(RUN) serve $* $(ARGS)

%-client: $(VENV)/.lab
	@$(RUN) connect $* $(ARGS)

%-capture: $(VENV)/.lab
	@$(RUN) capture $*

%-exercise: $(VENV)/.lab
	@$(RUN) exercise $* $(if $(FILE),--file '$(FILE)')

%-check: $(VENV)/.lab
	@$(RUN) check $* $(if $(FILE),--file '$(FILE)') $(if $(WATCH),--watch)

%-hint: $(VENV)/.lab
	@$(RUN) hint $*

%-quiz: $(VENV)/.lab
	@$(RUN) quiz $*

%-reset: $(VENV)/.lab
	@$(RUN) reset $*

wireshark-%: $(VENV)/.lab
	@$(RUN) wireshark $* $(if $(EXP),--exp '$(EXP)')

labs progress: $(VENV)/.lab
	@$(RUN) list

doctor: $(VENV)/.lab
	@$(RUN) doctor

certs: $(VENV)/.lab
	@$(VENV)/bin/python -m certs

# --- For those who change the lab. ----------------------------------------------------------------

# Most tests wait most of the time, so five run at once; then those that measure times, alone.
test: $(VENV)/.dev
ifdef ARGS
	@$(VENV)/bin/python -m pytest $(ARGS)
else
	@$(VENV)/bin/python -m pytest -n 5 --dist worksteal -m "not alone"
	@$(VENV)/bin/python -m pytest -m alone
endif

# Foreign peers that come by npm; without them the tests that need one are skipped by name.
peers: tests/peers/node_modules/.package-lock.json

tests/peers/node_modules/.package-lock.json: tests/peers/package-lock.json
	@npm ci --prefix $(@D)/.. --loglevel=error --ignore-scripts --no-audit --no-fund
	@touch $@

lint: $(VENV)/.dev
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy

bench: $(VENV)/.dev
	@$(VENV)/bin/python -m tests.benchmarks

fuzz: $(VENV)/.dev
	@$(VENV)/bin/python -m tests.fuzz_http1 $(ARGS)

clean:
	rm -rf captures tests/peers/node_modules $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

.DEFAULT:
	@echo "There is no target $@. Labs: $(SLUGS). \`make\` alone lists the targets." >&2; exit 2
