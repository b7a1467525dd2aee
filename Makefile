# Everything that is done with this repository. Each target is self-sufficient: it brings the
# system packages (apt, only when one is missing) and the virtual environment that it needs.
#
#   make demo PYTHON=python3.13     choose the interpreter of a new .venv
#   make soak N=30                  how often each soak test is repeated
#   make fuzz S=600                 for how many seconds each reader is fuzzed

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-builtin-rules --no-print-directory
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
N ?= 10
S ?= 60
BIN := .venv/bin
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
# A build needs root (loop devices, chroots); what it may see of our environment is named here.
AS_ROOT := $(if $(SUDO),$(SUDO) --preserve-env=RECAST_ARTIFACTS$(comma)RECAST_PROJECT$(comma)GITHUB_STEP_SUMMARY$(comma)RECAST_BENCH_KEEP$(comma)RECAST_BENCH_WORKERS,)
comma := ,

# The one list of host packages: what the programs in pipeline.command.PACKAGES come from, and
# what is needed besides programs (firmware, keys; cryptsetup-bin and erofs-utils, of which tests
# make trees). A unit test compares the two.
SYSTEM_PACKAGES := \
	apt coreutils cryptsetup-bin debian-archive-keyring debootstrap dosfstools erofs-utils fdisk git gpg gpg-agent mmdebstrap \
	mtools openssh-client ovmf python3-venv qemu-system-x86 qemu-utils sudo tar util-linux xz-utils zstd

# The disks of small trees are made with the host's own tools, and read with those of others; stores
# and keys are tried with servers and tokens that a user could have.
TEST_PACKAGES := \
	cryptsetup-bin erofs-utils jq libc-bin memcached nginx-light opensc softhsm2 swift-account swift-container swift-object swift-proxy

# Emulated machines have one processor, so two files of tests at once use both of a small host.
WORKERS := --numprocesses 2 --dist loadfile --no-loadscope-reorder

.PHONY: help
help: ## show this list
	@printf 'Recast: infrastructure changes as tested golden images\n\n'
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) \
		| sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

.PHONY: demo
demo: system venv ## from a commit to a machine at a site that reimages itself
	$(AS_ROOT) .ci/demo

.PHONY: test
test: SYSTEM_PACKAGES += $(TEST_PACKAGES)
test: system lint type ## everything that must hold: lint, types, and every test tier (real builds, real boots)
	$(AS_ROOT) $(BIN)/python -m pytest $(WORKERS) tests/unit tests/contract tests/integration tests/e2e

.PHONY: test-unit
test-unit: venv ## the fast tests alone (unit, contract)
	$(BIN)/python -m pytest tests/unit tests/contract

.PHONY: lint
lint: venv ## style (ruff), the floors of the packages (import-linter), the workflows (zizmor)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/zizmor --offline --no-progress --quiet .github/workflows

.PHONY: type
type: venv ## types (mypy --strict)
	$(BIN)/mypy

.PHONY: format
format: venv ## rewrite the sources in the house style
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

.PHONY: bench
bench: SYSTEM_PACKAGES += casync nginx-light ostree squashfs-tools xdelta3 zsync
bench: system venv ## measure against the tools that one could use instead (an hour); writes artifacts/bench/
	$(AS_ROOT) $(BIN)/python -m tests.bench

.PHONY: soak
soak: system venv ## repeat the tests that interrupt and kill, N times each
	$(AS_ROOT) env RECAST_SOAK=$(N) $(BIN)/python -m pytest -m soak tests

.PHONY: fuzz
fuzz: venv ## fuzz what reads bytes that came over a link, each reader for S seconds (amd64)
	for reader in deltas frames chunks segments packed; do \
		$(BIN)/python -m tests.fuzz.readers $$reader -max_total_time=$(S) -rss_limit_mb=1024 -artifact_prefix=artifacts/; \
	done

.PHONY: system
system: ## install the missing system packages (Debian, Ubuntu)
	@missing=$$({ dpkg-query -W -f '$${db:Status-Abbrev} $${Package}\n' $(SYSTEM_PACKAGES) 2>/dev/null || true; } \
		| awk '$$1 == "ii" { print $$2 }' \
		| sort | comm -13 - <(printf '%s\n' $(SYSTEM_PACKAGES) | sort) | xargs); \
	if [ -n "$$missing" ]; then \
		command -v apt-get >/dev/null || { echo "This needs Debian or Ubuntu; missing: $$missing" >&2; exit 1; }; \
		echo "Installing $$missing"; \
		$(SUDO) apt-get -o DPkg::Lock::Timeout=300 update -qq; \
		$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -qq -y --no-install-recommends $$missing; \
	fi

.PHONY: venv
venv: .venv/.complete ## make .venv from requirements.lock (only when that or pyproject.toml changed)

# With hashes checked, wheels only (nothing runs at installation), and no build from the network.
.venv/.complete: requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null && $(PYTHON) -c 'import ensurepip' 2>/dev/null || $(MAKE) system
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Recast needs Python 3.11 or newer; choose one with PYTHON=")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	@touch $@

.PHONY: lock
lock: venv ## renew requirements.lock, and the lock of what images get for their agent
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 \
		$(LOCKED) --upgrade --output-file requirements.lock
	$(BIN)/uv pip compile pyproject.toml --constraint requirements.lock \
		--python-version 3.11 --python-platform x86_64-manylinux_2_28 --only-binary :all: \
		$(LOCKED) --output-file pipeline/agent/requirements.lock

LOCKED := --generate-hashes --no-annotate --no-emit-index-url --no-emit-find-links \
	--custom-compile-command 'make lock'

.PHONY: wheel
wheel: venv ## build dist/recast-*.whl
	$(BIN)/uv build --wheel --no-build-isolation --python $(BIN)/python --out-dir dist

.PHONY: clean
clean: ## remove what is made here: .venv, caches, build results and run records
	$(SUDO) find artifacts -mindepth 1 -maxdepth 1 ! -name README.md -exec rm -rf {} +
	rm -rf .venv dist build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
