#!/bin/sh
# The tests of both projects, on servers in containers. Run it from anywhere.
set -eu
cd "$(dirname "$0")"
export CARGO_INCREMENTAL=0
# One folder for both: they share most of what they build.
: "${CARGO_TARGET_DIR:=$PWD/../../target/migration}"
export CARGO_TARGET_DIR
[ -z "${LEASEHOLD_POSTGRES_IMAGE:-}" ] || export POSTGRES_IMAGE="$LEASEHOLD_POSTGRES_IMAGE"

for project in before after; do
    cargo fmt --manifest-path "$project/Cargo.toml" --check
    cargo test --manifest-path "$project/Cargo.toml" --locked --quiet
done
