# Two commands for everyone: `make run` and `make test`. The others are for working on it.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CARGO ?= cargo
# Most tests wait for something most of the time.
TEST_THREADS ?= $(shell echo $$((2 * $$(nproc))))

.PHONY: help
help: ## Say what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

.PHONY: run
run: setup ## Build, and serve with a private PostgreSQL on http://127.0.0.1:8080; says what it installs
	$(CARGO) build --release --locked
	exec $(CARGO) run --release --locked --quiet

.PHONY: test
test: setup setup-test lint ## Run every check and every test
	RUST_TEST_THREADS=$(TEST_THREADS) $(CARGO) test --locked

.PHONY: test-clients
test-clients: setup setup-test ## Run further clients of SQS against the gateway, and print what each of them does
	@tools/setup --clients
	$(CARGO) test --locked --test it sqs_matrix -- --ignored --nocapture --test-threads=2

.PHONY: lint
lint: setup-test ## Check the format, lint with warnings denied, and check what is depended on
	$(CARGO) fmt --all -- --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	for script in tools/setup tools/screenshots .ci/run; do bash -n "$$script"; done
	python3 -c 'import ast, sys; ast.parse(open(sys.argv[1]).read(), sys.argv[1])' tools/postman
	target/tools/bin/cargo-deny --locked check bans licenses sources

.PHONY: fmt
fmt: ## Format the code
	$(CARGO) fmt --all

.PHONY: openapi
openapi: ## Write openapi/openapi.json from the code, and from that the Postman collection
	$(CARGO) run --quiet --locked -- openapi > openapi/openapi.json.new
	mv openapi/openapi.json.new openapi/openapi.json
	tools/postman

.PHONY: fuzz
fuzz: setup setup-test ## Test the API at random by its own document; FUZZ=300 is more of it, SEED=7 repeats
	TEST_FUZZ=$(or $(FUZZ),100) $(if $(SEED),TEST_SEED=$(SEED)) \
		$(CARGO) test --locked --test it schemathesis -- --nocapture

.PHONY: setup
setup: ## Install PostgreSQL and a C compiler, where they are missing
	@tools/setup

.PHONY: setup-test
setup-test:
	@tools/setup --test

.PHONY: bench
bench: setup ## Measure the gateway beside direct SQL; BENCH=--short takes two minutes, BENCH=compare OTHER=<program> another build
	$(if $(OTHER),OTHER=$(OTHER)) $(CARGO) bench --locked --bench load -- $(BENCH)
