# The index of commands. `make` alone lists them.
.DEFAULT_GOAL := help
SHELL := /bin/sh
.SHELLFLAGS := -eu -c
.DELETE_ON_ERROR:

NPM_CI := npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
APP_SOURCES := $(shell find app/src app/public app/assets -type f 2>/dev/null) $(wildcard app/*.json app/*.js app/*.ts)
# cargo-nextest runs the tests of all crates side by side; without it cargo's own runner does the same, slower.
RUN_TESTS := $(shell if cargo nextest --version >/dev/null 2>&1; then echo "nextest run --no-fail-fast"; else echo "test --no-fail-fast"; fi)
# What `make dev` passes on: make dev ARGS="--listen 127.0.0.1:9000"
ARGS ?=

.PHONY: help
help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: dev
dev: ## the whole product on this machine: http://127.0.0.1:8787 (ARGS=… for options)
	@$(MAKE) --no-print-directory --jobs=2 app build
	@exec target/debug/molt dev $(ARGS)

.PHONY: build
build:
	@cargo build --package molt --package molt-cell --bin molt --bin molt-cell

.PHONY: image
image: build ## the image of the bots' containers, on this machine's Docker engine (ARGS=… for options)
	@target/debug/molt image $(ARGS)

.PHONY: app
app: app/dist/index.html

app/dist/index.html: app/node_modules/.installed $(APP_SOURCES)
	@echo "  Building the app (when its sources changed; a minute or two)"
	@cd app && CI=1 EXPO_NO_TELEMETRY=1 npm run --silent build >.build.log 2>&1 || { cat .build.log; exit 1; }
	@touch $@

app/node_modules/.installed: app/package-lock.json
	@echo "  Installing what the app is built with"
	@cd app && $(NPM_CI) >/dev/null && touch node_modules/.installed

.PHONY: test
test: fmt-check lint test-rust test-app test-sdk test-journey test-docker ## everything that must be green before a push

.PHONY: check
check: fmt-check lint test-rust ## the quick half of `make test`: Rust only

.PHONY: fmt
fmt: ## format the sources
	cargo fmt --all

.PHONY: fmt-check
fmt-check:
	cargo fmt --all --check

.PHONY: lint
lint:
	cargo clippy --workspace --all-targets --all-features --quiet -- --deny warnings

# The integration tests start the real programs, so those are built first. Tests share one Postgres, which ends with them.
.PHONY: test-rust
test-rust: app e2e/node_modules/.installed
	cargo build --workspace --bins --quiet
	cargo $(RUN_TESTS) --workspace || { $(MAKE) --no-print-directory test-postgres-stop; exit 1; }
	@$(MAKE) --no-print-directory test-postgres-stop

.PHONY: test-postgres-stop
test-postgres-stop:
	@for note in target/test-postgres/cluster/postmaster.pid /tmp/molt-test-postgres/cluster/postmaster.pid; do \
	  if [ -f "$$note" ]; then kill -INT "$$(head -n 1 "$$note")" || true; fi; \
	done

.PHONY: test-app
test-app: app/node_modules/.installed
	cd app && npm run --silent typecheck && npm test --silent

# OpenAI's and Anthropic's own SDKs against Ghost Key.
.PHONY: test-sdk
test-sdk: app build e2e/node_modules/.installed
	cd e2e && node sdk.mjs

# In a real browser against the real OpenClaw.
.PHONY: test-journey
test-journey: app build e2e/node_modules/.installed
	cd e2e && node journey.mjs

# The same, with the assistants in containers. Without an engine it is left out, but not in a continuous integration.
.PHONY: test-docker
test-docker: app build e2e/node_modules/.installed
	@socket=$$(infrastructure/docker/engine) || { echo "The journey in containers was left out."; test -z "$${CI:-}"; exit; }; \
	cd e2e && node journey.mjs --docker "$$socket"

e2e/node_modules/.installed: e2e/package-lock.json
	@cd e2e && $(NPM_CI) >/dev/null && touch node_modules/.installed

# Twelve minutes for all parsers together: ten of them, two at a time.
PROVE_FUZZ_SECONDS ?= 150
.PHONY: prove
prove: app e2e/node_modules/.installed ## the long proofs, whole: every kill at every moment, ten minutes of random input, then kills and faults with the real OpenClaw (three quarters of an hour)
	fuzz/run $(PROVE_FUZZ_SECONDS)
	cargo build --workspace --bins --quiet
	MOLT_PROVE=1 cargo $(RUN_TESTS) --package molt --package molt-fleet --test it
	MOLT_PROVE=1 cargo $(RUN_TESTS) --package molt-fleet --test conformance
	@$(MAKE) --no-print-directory test-postgres-stop
	node e2e/kills.mjs
	node e2e/faults.mjs

SECONDS ?= 20
.PHONY: fuzz
fuzz: ## random input for every parser of the proxy (SECONDS=… for each; 20)
	fuzz/run $(SECONDS)

.PHONY: bench
bench: build release ## how fast and how small: start, memory, calls; Ghost Key against nginx; 10,000 bots (docs/benchmarks.md)
	node bench/run.mjs
	node bench/gateway.mjs
	node bench/fleet.mjs

.PHONY: bench-proxy
bench-proxy: release ## one proxy before the gateway rig's upstream: prints its address and a key
	@node bench/proxy.mjs

# How often a model call takes each branch, counted on x86-64 Linux and used there (docs/decisions/0015).
ifeq ($(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p'),x86_64-unknown-linux-gnu)
PROFILED := -Cprofile-use=$(CURDIR)/crates/molt/calls.profdata
endif
.PHONY: release
release:
	@RUSTFLAGS="$(RUSTFLAGS) $(PROFILED)" cargo build --release --package molt --bin molt

# Counts of functions that changed since are left out, which costs speed and nothing else. Compiler plug-ins count too, in vain.
.PHONY: profile
profile: ## counts anew what a model call runs, for the release build (crates/molt/calls.profdata; needs llvm-profdata; ten minutes)
	LLVM_PROFILE_FILE=/dev/null RUSTFLAGS=-Cprofile-generate cargo build --release --package molt --bin molt --target-dir target/profile
	CARGO_TARGET_DIR=target/profile node bench/profile.mjs

.PHONY: clean
clean: ## remove what was built (not your data: that is `molt dev --reset`)
	cargo clean
	rm -rf app/dist app/node_modules e2e/node_modules fuzz/target
