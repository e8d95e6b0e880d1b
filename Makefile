# What people type. CI runs the same recipes.

.PHONY: help demo test check fmt lint deny docs docs-api unit sdk real coverage fuzz bench bench-instructions loadtest soak compare build image clean

help: ## Shows this list.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

demo: ## Builds and runs a gateway with a key, on a temporary database (MODEL=real: in front of llama.cpp with a small model).
	@cargo build --locked --bin neuronetz
	@$(if $(filter real,$(MODEL)),tests/real/run demo,target/debug/neuronetz demo)

build: ## Builds the release binary (PGO=1: optimized for what it does, by a fifth faster; half an hour).
	$(if $(PGO),@loadtests/pgo/run,cargo build --release --locked --bin neuronetz)

test: ## Runs everything: format, lints, licences, tests on both databases, real clients.
	@tests/run

check: fmt lint deny docs ## Runs what needs no servers.

fmt: ## Checks the format.
	cargo fmt --all --check
	rustfmt --check --edition 2024 storage/src/*/port.rs protocol/fuzz/targets/*.rs protocol/fuzz/src/lib.rs

lint: ## Runs clippy and the small checks of our own.
	cargo clippy --workspace --all-targets --locked -- -D warnings
	tests/files

deny: ## Checks licences, who depends on whom, and known vulnerabilities (builds cargo-deny once).
	@tests/deny

docs: ## Builds the documentation of the code.
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items --locked --quiet

docs-api: ## Writes the tables of docs/API.md anew, from the tests that prove them.
	UPDATE_DOCS=1 cargo test -p protocol --lib --locked --quiet fields

unit: ## Runs the Rust tests alone (on SQLite, and on Postgres where TEST_POSTGRES_URL says one).
	tests/run rust

coverage: ## Shows which lines of the rules, the limits and the identities tests run; all must be.
	@tests/run coverage

sdk: ## Runs the real clients alone.
	tests/run sdk

real: ## Puts the gateway in front of a real llama.cpp with a real model (compiles it once: 15 minutes) and tries it.
	@tests/real/run

fuzz: ## Feeds each fuzz target for a minute (FUZZ_SECONDS).
	@protocol/fuzz/run

bench: ## Measures each stage of a request beside a naive version (BENCH=: those with this in their names).
	cargo bench --package benches --locked -- $(BENCH)

bench-instructions: ## Counts the instructions of the hot paths; fails at 3 % more than is committed (UPDATE=1: writes).
	@benches/instructions/run

loadtest: ## Puts a release build under load (SCENARIO=steady, SCENARIO=all; LOCUST=1: with locust) and checks that it kept its word.
	@loadtests/run $(SCENARIO)

soak: ## Holds half of the full load for 30 minutes (SOAK_SECONDS) and checks that memory, descriptors and actors come back.
	@loadtests/soak/run

compare: ## Measures a release build beside nginx, in one table (QUICK=1, ONLY=burst, PEERS=1).
	@COMPARE_COMMAND="make compare" loadtests/compare/run

image: ## Builds the container image.
	buildah bud -t neuronetz .

clean: ## Removes what was built.
	cargo clean
