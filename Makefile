# The usual ways through. CMakePresets.json has the others: debug, asan, tsan, fuzz, bare.
#
#   make demo         run the demo model with 1 MiB of RAM for its KV
#   make demo-long    the same with a pretrained model (fetched: 93 MB) that reads a book
#   make test         run the tests            (make test-full: every combination)
#   make test-long    run those with the pretrained model at 7,900 tokens
#   make fuzz         look for bad input that is handled badly, FUZZ_SECONDS=60 per kind of file
#   make bench        run the benchmarks
#   make              build
#   make install      into PREFIX, /usr/local by default
#   make deps         install all that any of these needs
#   make format       clang-format on every source
#   make clean
#
# demo, test and bench, long or not, install what is missing; YES=1: without asking.
BUILD  := build/release
PREFIX ?= /usr/local
FUZZ_SECONDS ?= 60
JOBS   := $(shell nproc)
# Not fixed in the preset, so that a machine without Ninja builds as well.
export CMAKE_GENERATOR ?= $(if $(shell command -v ninja),Ninja,Unix Makefiles)

.PHONY: build fuzz demo demo-long test test-full test-long bench install command deps deps-bench deps-build deps-long deps-test format clean help
.NOTPARALLEL:

build: $(BUILD)/.configured
	@cmake --build $(BUILD) -j $(JOBS)

$(BUILD)/.configured: CMakePresets.json
	@mkdir -p $(BUILD)
	@cmake --preset release >$(BUILD)/configure.log || \
	    { cat $(BUILD)/configure.log; echo "kvpager: make deps installs what is missing" >&2; exit 1; }
	@grep '^-- kvpager' $(BUILD)/configure.log
	@touch $@

demo: deps-build command
	@sh integration/demo.sh $(BUILD)/integration/kvpager

demo-long: deps-long command
	@sh integration/demo_long.sh $(BUILD)/integration/kvpager

command: $(BUILD)/.configured
	@cmake --build $(BUILD) -j $(JOBS) --target kvpager_command >$(BUILD)/build.log || \
	    { cat $(BUILD)/build.log; exit 1; }

test: deps-test build
	@ctest --test-dir $(BUILD) -j $(JOBS) --output-on-failure --no-tests=error -LE long

test-full: deps-test build
	@KVP_TEST_FULL=1 ctest --test-dir $(BUILD) -j $(JOBS) --output-on-failure --no-tests=error -LE long

# KVP_TEST_FULL=1: at full length throughout.
test-long: deps-test deps-long build
	@sh models/smollm2/fetch.sh >/dev/null
	@ctest --test-dir $(BUILD) --output-on-failure --no-tests=error -L long

# What a fuzzer finds to be interesting goes to build/fuzz/corpus/, what breaks something beside it.
fuzz: deps
	@cmake --preset fuzz >/dev/null && cmake --build --preset fuzz -j $(JOBS)
	@for program in build/fuzz/tests/fuzz_*; do \
	    name=$${program##*/fuzz_}; mkdir -p build/fuzz/corpus/$$name; echo "== $$name"; \
	    $$program -max_total_time=$(FUZZ_SECONDS) -timeout=10 -malloc_limit_mb=64 -print_final_stats=1 \
	        -artifact_prefix=build/fuzz/$$name- -verbosity=0 \
	        build/fuzz/corpus/$$name tests/fuzz/corpus/$$name || exit 1; \
	done

bench: deps-bench build
	@KVP_COMMIT=$$(git describe --always --dirty 2>/dev/null); export KVP_COMMIT; \
	    for bench in $(BUILD)/bench/bench_*; do $$bench || exit 1; done
	@! test -x $(BUILD)/integration/kvpager || $(BUILD)/integration/kvpager bench sessions

install: build
	@cmake --install $(BUILD) --prefix $(PREFIX)

deps-bench:
	@sh cmake/deps.sh bench

deps-build:
	@sh cmake/deps.sh build

deps-long:
	@sh cmake/deps.sh long

deps-test:
	@sh cmake/deps.sh test

deps:
	@sh cmake/deps.sh ci

format:
	@git ls-files '*.c' '*.h' | xargs clang-format -i

clean:
	@rm -rf build

help:
	@sed -n '1,/^BUILD/s/^# \{0,1\}//p' Makefile
