# Everything here is cargo and two scripts; only the Rust toolchain and a C compiler are needed to begin.
CARGO ?= cargo
DEMO_ARGS ?=
# Seconds for each target.
FUZZ_SECONDS ?= 600

.PHONY: help build demo testbed test test-real faults strictness compare soak simulate fuzz bench bench-check fmt lint deb rpm clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

build: ## release build: target/release/manyhands
	$(CARGO) build --release --locked

demo: ## a server and three volunteers on loopback, with lines to paste (DEMO_ARGS)
	$(CARGO) run --release --locked -- demo $(DEMO_ARGS)

testbed: ## a server, three volunteers and a shell on a client, on hosts of their own in namespaces (as root)
	$(CARGO) test --locked --test by-hand

test: ## install what the tests drive, then run all of them
	tests/setup.sh
	$(CARGO) test --locked

test-real: ## the tests that need a real upstream: downloads, debootstrap, every suite of the machine's mirror, booted systems
	tests/setup.sh
	MANYHANDS_REAL=1 $(CARGO) test --locked --test real --test suites --test booted --test indexes

# The tests that try to break the promises about metadata and stores: short in `make test`, here for long.
SOAK_TABLES := $${CARGO_TARGET_DIR:-target}/tmp/soak
soak: ## the long forms of these proofs, in release mode, with their figures at the end (half an hour)
	tests/setup.sh
	rm -rf $(SOAK_TABLES)
	MANYHANDS_SOAK=1 $(CARGO) test --release --locked --lib simulate
	MANYHANDS_SOAK=1 $(CARGO) test --release --locked --no-fail-fast --test coherence --test crash \
		--test faults --test flash --test reality -- --nocapture --test-threads=1 || status=$$?; \
		for table in $(SOAK_TABLES)/*.txt; do echo; cat "$$table"; done; exit $${status:-0}

SEEDS ?= 10
simulate: build ## every scenario with SEEDS seeds: the figures of docs/policy.md (ten minutes)
	set -e; for scenario in scenarios/*.toml; do \
		$${CARGO_TARGET_DIR:-target}/release/manyhands simulate $$scenario --seeds $(SEEDS); \
	done

faults: ## every fault of volunteers against every kind of client, measured: writes docs/failures.md (half an hour, as root)
	tests/setup.sh
	MANYHANDS_SOAK=1 $(CARGO) test --release --locked --no-fail-fast --test failures --test storm -- --nocapture --test-threads=1

strictness: ## every defect of metadata with every kind of client: writes docs/strictness.md
	tests/setup.sh
	MANYHANDS_PAGE=1 MANYHANDS_SOAK=1 $(CARGO) test --locked --test strictness

SUITES ?= $${CARGO_TARGET_DIR:-target}/suites
compare: ## repositories of others with every client and by HTTP, beside the same from nginx: two tables of what differs
	tests/setup.sh
	tests/by_hand/suites.sh $(SUITES)
	$(CARGO) test --locked --test compare -- $(SUITES)

# What the fuzzer grows stays below fuzz/target; fuzz/corpus has only chosen seeds.
fuzz: ## made-up input for every parser, FUZZ_SECONDS each (needs a nightly toolchain and cargo-fuzz)
	set -e; for target in $$($(CARGO) +nightly fuzz list); do \
		mkdir -p fuzz/target/corpus/$$target; \
		$(CARGO) +nightly fuzz run $$target fuzz/target/corpus/$$target fuzz/corpus/$$target -- \
			-max_total_time=$(FUZZ_SECONDS) -dict=fuzz/words.dict -max_len=16384 \
			-rss_limit_mb=2048 -timeout=10 -report_slow_units=1; \
	done

bench: ## measurements against peers, in one run
	tests/setup.sh
	bench/run.sh
	bench/scale.sh

bench-check: ## the short form of all measurements, with a debug build: that they work, not their figures
	tests/setup.sh
	BENCH=short bench/run.sh
	BENCH=short bench/scale.sh
	echo exit | $(CARGO) test --locked --test by-hand

fmt: ## format the code
	$(CARGO) fmt

lint: ## formatting and clippy, warnings as errors
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets --locked -- -D warnings

# RPM_SIGN_KEY=ID signs rpm packages with this key of gpg's.
TARGET := $${CARGO_TARGET_DIR:-target}
deb: build ## Debian packages, the program and its symbols: target/packages (needs dpkg-dev)
	packaging/build.sh deb $(TARGET)/release/manyhands $(TARGET)/packages

rpm: build ## rpm packages, the same (needs rpmbuild)
	packaging/build.sh rpm $(TARGET)/release/manyhands $(TARGET)/packages

clean: ## remove what builds made
	$(CARGO) clean
