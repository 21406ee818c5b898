#!/usr/bin/env bash
# Does `docker compose up` do what the README says? Up, until the service is on its second login or
# later; then the service is stopped, and must have left neither a lease nor a role. Nothing stays.
#
#   deploy/compose/check.sh docker compose      # or docker-compose, or with -f and more
#
# With the images that VAULT_IMAGE, POSTGRES_IMAGE and APP_IMAGE name; builds what is not there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
[ $# -gt 0 ] || { echo "usage: $0 COMPOSE..." >&2; exit 2; }

project=leasehold-check-$$
compose=("$@" -p "$project")
label=com.docker.compose.project=$project
# Any free ports, and lives of seconds: this runs beside others, and is not to take minutes.
export COMPOSE_APP_PORT=0 COMPOSE_VAULT_PORT=0 COMPOSE_PG_PORT=0 DEFAULT_TTL=6s MAX_TTL=12s

remove() { "${compose[@]}" down --volumes --timeout 40 >/dev/null 2>&1; }
fail() {
    echo "compose: $*" >&2
    "${compose[@]}" ps -a >&2 || true
    "${compose[@]}" logs --tail 30 >&2 || true
    exit 1
}
trap 'remove || true' EXIT
trap 'exit 1' INT TERM HUP

seconds=$SECONDS
"${compose[@]}" up -d >/dev/null 2>&1 || fail "up failed"

ready() { # URL: prints the generation if the service is ready
    python3 -c '
import json, sys, urllib.request
answer = json.load(urllib.request.urlopen(sys.argv[1], timeout=5))
if answer["ready"]:
    print(answer["credentials"]["generation"])' "$1" 2>/dev/null
}
address=$("${compose[@]}" port app 3000) || fail "the service has no port"
generation=0
until [ "$generation" -ge 2 ]; do
    [ $((SECONDS - seconds)) -lt 180 ] || fail "generation $generation after 180 s"
    sleep 0.2
    generation=$(ready "http://$address/health/ready" || true)
    generation=${generation:-0}
done
echo "compose: generation $generation after $((SECONDS - seconds)) s"

"${compose[@]}" stop app >/dev/null 2>&1 || fail "stop app failed"
app=$(docker ps -aq --filter "label=$label" --filter label=com.docker.compose.service=app)
code=$(docker inspect --format '{{.State.ExitCode}}' "$app")
[ "$code" = 0 ] || fail "the service ended with $code"

in_openbao() {
    "${compose[@]}" exec -T -e VAULT_TOKEN=root openbao sh -c "
        if command -v bao >/dev/null; then bao $1; else vault $1; fi"
}
in_openbao "token lookup -format=json" >/dev/null || fail "the root token is not known to the server"
# An empty list is exit code 2, and {} in JSON.
leases=$(in_openbao "list -format=json sys/leases/lookup/database/creds/app" 2>/dev/null || true)
[ "$(tr -d '[:space:]' <<<"$leases")" = "{}" ] || fail "leases are left: $leases"
roles=$("${compose[@]}" exec -T postgres psql -U vaultadmin -d appdb -Atc \
    "select count(*) from pg_roles where starts_with(rolname, 'v-')") || fail "psql failed"
[ "$(tr -d '[:space:]' <<<"$roles")" = 0 ] || fail "$roles roles are left"

remove || fail "down failed"
left=$(docker ps -aq --filter "label=$label"; docker network ls -q --filter "label=$label"
    docker volume ls -q --filter "label=$label")
[ -z "$left" ] || fail "left behind: $left"
echo "compose: nothing is left"
