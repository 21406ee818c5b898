#!/bin/sh
# Starts as the postgres image does: POSTGRES_USER, POSTGRES_PASSWORD, POSTGRES_DB,
# POSTGRES_INITDB_ARGS (and *_FILE), POSTGRES_HOST_AUTH_METHOD, /docker-entrypoint-initdb.d.
set -eu

case "${1:-}" in ''|-*) set -- postgres "$@" ;; esac
[ "$1" = postgres ] || exec "$@"

: "${PGDATA:=/var/lib/postgresql/data}"
export PGDATA

# Postgres refuses to run as root.
if [ "$(id -u)" = 0 ]; then
    mkdir -p "$PGDATA" /run/postgresql
    chown -R postgres:postgres "$PGDATA" /run/postgresql
    chmod 0700 "$PGDATA"
    exec su -s /bin/sh postgres -c 'exec "$0" "$@"' -- "$0" "$@"
fi

[ ! -s "$PGDATA/PG_VERSION" ] || exec "$@"

for name in POSTGRES_USER POSTGRES_PASSWORD POSTGRES_DB POSTGRES_INITDB_ARGS; do
    eval "file=\${${name}_FILE:-}"
    if [ -n "$file" ]; then eval "$name=\$(cat \"\$file\")"; fi
done
user=${POSTGRES_USER:-postgres}
db=${POSTGRES_DB:-$user}
method=${POSTGRES_HOST_AUTH_METHOD:-scram-sha-256}
if [ -z "${POSTGRES_PASSWORD:-}" ] && [ "$method" != trust ]; then
    echo 'POSTGRES_PASSWORD has to be set (or POSTGRES_HOST_AUTH_METHOD=trust)' >&2
    exit 1
fi

password=/tmp/.password
(umask 077; printf '%s\n' "${POSTGRES_PASSWORD:-unused}" > "$password")
# -N: nothing here has to survive the machine. Trust: the socket is the container's own.
# shellcheck disable=SC2086
initdb -N -E UTF8 --no-locale --username="$user" --pwfile="$password" --auth=trust \
    ${POSTGRES_INITDB_ARGS:-}
rm -f "$password"
printf '\nhost all all all %s\n' "$method" >> "$PGDATA/pg_hba.conf"
echo "listen_addresses = '*'" >> "$PGDATA/postgresql.conf"

# First on a socket only, so that nobody connects too early. pg_ctl sends this server's log to
# stdout; the real one's goes to stderr. Whoever waits for the ready line waits for both.
pg_ctl -s -w -o "-c listen_addresses='' -c fsync=off" start
sql() { psql -v ON_ERROR_STOP=1 --no-psqlrc -q -U "$user" "$@"; }
if [ "$db" != postgres ]; then printf 'create database :"db";\n' | sql -d postgres -v db="$db"; fi
for file in /docker-entrypoint-initdb.d/*; do
    case "$file" in
        *.sh)     if [ -x "$file" ]; then "$file"; else . "$file"; fi ;;
        *.sql)    sql -d "$db" -f "$file" ;;
        *.sql.gz) gunzip -c "$file" | sql -d "$db" ;;
    esac
done
pg_ctl -s -w -m fast stop
exec "$@"
