# Recipes for developers; `just` alone lists them. Each check is a step of `.ci/run`, which CI runs
# without just.

set shell := ["bash", "-euo", "pipefail", "-c"]

_list:
    @{{ just_executable() }} --list --unsorted

# Run all checks, as CI does.
ci:
    .ci/run

# Run the checks that take the least time.
quick: formatting clippy

# Format the code.
format:
    cargo fmt --all
    cd fuzz && cargo fmt

# Install the cargo tools that the checks need, at fixed versions.
tools:
    .ci/run tools

# Check the formatting.
formatting:
    .ci/run formatting

# Run clippy; warnings are errors.
clippy:
    .ci/run clippy

# Check the dependencies: licences, sources, duplicates, and those of cortex-proto.
dependencies:
    .ci/run tools dependencies

# Build the API documentation; warnings are errors.
documentation:
    .ci/run documentation

# Run all tests.
tests:
    .ci/run tests

# Package cortex-proto and build its example outside the workspace.
protocol-crate:
    .ci/run protocol-crate

# Run each fuzz target for some seconds.
fuzz seconds="30":
    FUZZ_SECONDS={{ quote(seconds) }} .ci/run tools fuzzing

# Compare the daemon with a model of who lives, for some seconds of a random life of nodes.
random-liveness seed="1" seconds="300":
    LIVENESS_SEED={{ quote(seed) }} LIVENESS_SECONDS={{ quote(seconds) }} \
        cargo test --locked -p cortex-tests --test random_liveness

# Measure daemons that run: `just bench throughput ours=ipc:///tmp/b/ours.sock`.
[positional-arguments]
bench benchmark *daemons:
    cargo bench --locked -p cortex-tests --bench {{ quote(benchmark) }} -- "${@:2}"
