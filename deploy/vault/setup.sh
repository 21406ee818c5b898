#!/bin/sh
# Sets up OpenBao or Vault for a service "orders": the database engine, its connection, three
# roles, the policy, an AppRole. May run again. Needs `bao` or `vault`, logged in (VAULT_ADDR and
# VAULT_TOKEN) as somebody who may do all that, and a Postgres on which postgres.sql was run.
set -eu
cd "$(dirname "$0")"

# Postgres as the Vault server sees it, and how it is to be spoken to.
: "${PG_ADDRESS:?host:port of Postgres}"
: "${PG_SSLMODE:=verify-full}"
# What postgres.sql made, and the password that it has now.
: "${PG_ADMIN:=vaultadmin}"
: "${PG_ADMIN_PASSWORD:=}"

vault_cli() {
    if command -v bao >/dev/null; then bao "$@"; else vault "$@"; fi
}

vault_cli secrets list | grep -q '^database/' || vault_cli secrets enable database

# Without a password the connection stays as it is: after the rotation below only Vault knows it.
if [ -n "$PG_ADMIN_PASSWORD" ]; then
    vault_cli write database/config/orders \
        plugin_name=postgresql-database-plugin \
        connection_url="postgresql://{{username}}:{{password}}@$PG_ADDRESS/orders?sslmode=$PG_SSLMODE" \
        allowed_roles=orders-rw,orders-ro,orders-migrate \
        username="$PG_ADMIN" password="$PG_ADMIN_PASSWORD"
    vault_cli write -force database/rotate-root/orders
fi

for role in orders-rw orders-ro orders-migrate; do
    vault_cli write "database/roles/$role" "@roles/$role.json"
done

vault_cli policy write orders dynamic-role.hcl

vault_cli auth list | grep -q '^approle/' || vault_cli auth enable approle
vault_cli write auth/approle/role/orders \
    token_policies=orders token_no_default_policy=true \
    token_ttl=1h token_max_ttl=24h \
    secret_id_ttl=720h

echo "role_id: $(vault_cli read -field=role_id auth/approle/role/orders/role-id)"
