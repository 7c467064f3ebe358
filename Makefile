# Everything from a fresh clone: `make run` and `make test` need Python 3.11+ and nothing else.
# PYTHON=... chooses the interpreter, CC=... the compiler of the guests.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
EMU    := $(BIN)/emu
PIP    := $(BIN)/python -m pip -qq --disable-pip-version-check

GUEST_SOURCES := $(wildcard guests/*.S guests/*.c guests/*.ld guests/include/*.h guests/conformance/*)
NATIVE_SOURCES := $(wildcard emu/vcpu/native/*.[ch])
GUEST_BUILDER := emu/toolchain.py emu/compiler.py emu/data.py

.DEFAULT_GOAL := help
.PHONY: help run test bench prove-determinism prove-properties prove-slicing prove-conform prove-hostile prove-walk prove-explore prove-grade prove-fuzz bench-fuzz guests lint reference wheel clean
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

help: ## print these lines
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 28

run: guests/build/.done ## set up, then run the main demonstration
	@$(EMU) run demo

test: guests/build/.done $(VENV)/.dev ## set up, then run the tests
	@$(BIN)/python -m pytest

bench: guests/build/.done $(VENV)/.dev ## measure against the named baselines
	@$(BIN)/python -m tests.bench

prove-determinism: guests/build/.done $(VENV)/.dev ## the full form of a bar: 100 runs and 10 hash seeds, one trace
	@$(BIN)/python -m tests.test_determinism

prove-conform: $(VENV)/.dev ## 100,000 random sequences: model, emulator and real KVM must agree
	@$(EMU) conform --random 100000 --jobs 2

guests: $(VENV)/.compiler guests/include/abi.h ## build the guest programs
	@$(BIN)/python -m emu.toolchain

prove-properties: guests/build/.done $(VENV)/.dev ## the tests that draw examples, with ten times as many
	@EMU_EFFORT=10 $(BIN)/python -m pytest --timeout=1800 $$(grep -rlw EFFORT tests --include='test_*.py') tests/host

prove-slicing: $(VENV)/.dev ## 1,000 random programs, sliced at random: every state must agree
	@$(BIN)/python -m tests.vcpu.slicing

prove-hostile: $(VENV)/.dev ## 1,000,000 operations of hostile guests: the host never raises, hangs or is written to
	@$(BIN)/python -m tests.hostile

prove-walk: guests/build/.done $(VENV)/.dev ## 10,000 steps forward and back over every guest: no state may differ
	@$(BIN)/python -m tests.history

prove-explore: guests/build/.done $(VENV)/.dev ## every reader with up to three updates, and Spin's opinion
	@$(BIN)/python -m tests.explore

prove-grade: $(VENV)/.dev ## 200 submissions, right, wrong and hostile: every verdict, the time, the memory, the same bytes
	@$(BIN)/python -m tests.classroom

prove-fuzz: guests/build/.done $(VENV)/.dev ## 20 kills that lose nothing, and an hour in which nothing is found where nothing is
	@$(BIN)/python -m tests.fuzz.prove

bench-fuzz: guests/build/.done $(VENV)/.dev ## planted bugs: how soon each fuzzing engine finds them, over ten seeds
	@$(BIN)/python -m tests.fuzz

lint: $(VENV)/.dev ## check style and types
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m mypy

reference: $(VENV)/.dev ## build the reference guests and write their hashes
	@$(BIN)/python -m emu.toolchain --reference --hashes

wheel: $(VENV)/.dev ## build the wheel, reference guests included
	@$(BIN)/python -m emu.toolchain --reference
	@$(PIP) wheel --no-deps --wheel-dir dist .
	@ls dist

clean: ## remove what was built, and the virtual environment
	rm -rf $(VENV) guests/build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find emu tests -name __pycache__ -type d -exec rm -rf {} +

# --- Set-up. A stamp stands for each step, so a second call does nothing. ---

$(VENV)/.venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "emu needs Python 3.11 or newer as \`$(PYTHON)\`; choose another with: make PYTHON=python3.11"; exit 1; } >&2
	@echo "creating $(VENV)"
	@$(PYTHON) -m venv $(VENV) >$(VENV).log 2>&1 || \
	    { cat $(VENV).log; rm -f $(VENV).log; \
	      echo "\`$(PYTHON) -m venv\` failed; on Debian and Ubuntu: sudo apt install python3-venv"; exit 1; } >&2
	@rm -f $(VENV).log
	@touch $@

$(VENV)/.core: $(VENV)/.venv pyproject.toml
	@echo "installing emu and what it needs"
	@$(PIP) install --editable .
	@touch $@

# The callbacks in C, once more where they have changed, or where zig is the only compiler. Without them all is slower.
$(VENV)/.native: $(NATIVE_SOURCES) $(VENV)/.compiler
	@$(BIN)/python -m emu.vcpu.native.build || true
	@touch $@

$(VENV)/.dev: $(VENV)/.core $(VENV)/.native
	@echo "installing the test tools"
	@$(PIP) install --editable '.[dev]'
	@touch $@

$(VENV)/.compiler: $(VENV)/.core
	@$(BIN)/python -m emu.toolchain --find >/dev/null 2>&1 || \
	    { echo "installing the zig compiler (about 100 MB)" && $(PIP) install --editable '.[build]'; }
	@touch $@

guests/include/abi.h: emu/abi.py emu/abi_header.py | $(VENV)/.venv
	@$(BIN)/python -m emu.abi_header >$@.new
	@mv $@.new $@

guests/build/.done: $(VENV)/.compiler guests/include/abi.h $(GUEST_SOURCES) $(GUEST_BUILDER)
	@$(BIN)/python -m emu.toolchain
	@touch $@
