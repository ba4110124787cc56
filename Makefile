# `make run` for a first look, `make test` and `make check` before a commit; `make` alone says what there is.

.PHONY: help run test console-test faults faults-long fuzz schemathesis bench cells check model simulate planted-bugs fmt prerequisites
.DEFAULT_GOAL := help

help: ## This text
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

prerequisites: ## Look for what is needed, and install it from Debian packages where that is allowed
	@scripts/prerequisites

run: prerequisites ## Run PostgreSQL, Redis, Kafka and the service here, and send one job through
	@cargo build --bins
	@cargo run --quiet --bin dispatcher -- start-dev

test: prerequisites ## All tests, on servers that they start themselves
	cargo test --workspace

faults: prerequisites ## 250 random schedules of faults, each checked against every promise
	SCHEDULES=250 cargo test --test it schedules::random -- --nocapture

faults-long: prerequisites ## The same, any number: N=10000; adds a row to docs/reliability.md
	SCHEDULES=$(or $(N),1000) REPORT=docs/reliability.md cargo test --test it schedules::random -- --nocapture

fuzz: prerequisites ## Every parser of foreign bytes under libFuzzer, ten minutes each: SECONDS=30, TARGET=token
	@SECONDS_EACH=$(or $(SECONDS),600) TARGET=$(TARGET) scripts/fuzz

schemathesis: prerequisites ## The OpenAPI document and the running program held against each other, 20,000 requests: EXAMPLES=60
	@scripts/schemathesis

console-test: ## The operators' console in Chromium, against the real stack; screenshots in target/console
	@scripts/prerequisites console
	@cd tests/console && npm ci --no-audit --no-fund
	cargo test --test console -- --nocapture

bench: prerequisites ## The goals of docs/benchmarks.md, measured: two hours; ONLY=G3, ROUNDS=5, BACKLOG=1000000
	cargo bench --bench goals

cells: prerequisites ## Rates under stress, nine cells of a public benchmark: eight minutes, not part of bench; SECONDS=10
	ONLY=CELLS ROUNDS=$(or $(ROUNDS),1) cargo bench --bench goals

check: prerequisites ## Format, lints, documents, licences, layering, alert rules, compose file
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --document-private-items
	cargo test --test it house::
	@scripts/prerequisites cargo-deny
	cargo deny --locked check licenses bans sources
	@scripts/prerequisites promtool
	promtool check rules ops/prometheus/rules.yml
	promtool test rules ops/prometheus/rules.test.yml
	@scripts/compose-config

model: ## Explore every state of docs/model.md's scopes, and see the wrong variants caught
	cargo run --quiet -p outbox-model -- "$(ONLY)"

# The dependencies stay as `make test` built them; our own code is optimised.
simulate: prerequisites ## A million seeds through the relay's own decisions; SEEDS=100, or SEED=7 to see what one does
	$(if $(SEED),SEED=$(SEED),SEEDS=$(or $(SEEDS),1000000)) cargo --config 'profile.dev.package.image-job-dispatcher.opt-level=2' \
		test --lib simulation -- --nocapture

planted-bugs: ## Plant known bugs, one after the other, and see the tests fail: ONLY=lease, or UNIT=1 (two minutes)
	@scripts/prerequisites planted-bugs
	@scripts/planted-bugs $(ONLY)

fmt: ## Format the code
	cargo fmt --all
