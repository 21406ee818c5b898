#!/bin/sh
# Sets up OpenBao or Vault for the example: database engine, role, policy, AppRole. May run again.
set -eu

# Whichever the image has. Found before there is a function of that name, which would be found too.
cli=$(command -v bao || command -v vault)
bao() { "$cli" "$@"; }

bao secrets list | grep -q '^database/' || bao secrets enable database
bao write database/config/appdb \
    plugin_name=postgresql-database-plugin \
    allowed_roles=app \
    connection_url='postgresql://{{username}}:{{password}}@postgres:5432/appdb?sslmode=disable' \
    username=vaultadmin password=admin-pw

# Short lives, so that a look shows some rotations.
bao write database/roles/app \
    db_name=appdb default_ttl="$DEFAULT_TTL" max_ttl="$MAX_TTL" \
    creation_statements="CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}' IN ROLE app_rw" \
    revocation_statements='DROP ROLE IF EXISTS "{{name}}"'

sed 's|database/creds/orders-rw|database/creds/app|' /policies/dynamic-role.hcl \
    | bao policy write axum-app -
bao auth list | grep -q '^approle/' || bao auth enable approle
bao write auth/approle/role/axum-app \
    token_policies=axum-app token_ttl=1h token_max_ttl=4h
bao write auth/approle/role/axum-app/role-id role_id="$APPROLE_ROLE_ID"
# A secret_id of our choice, which compose can hand to the service. Elsewhere the server makes it.
# It can't be written twice.
bao write auth/approle/role/axum-app/secret-id/lookup secret_id="$APPROLE_SECRET_ID" 2>/dev/null \
    | grep -q secret_id_accessor \
    || bao write auth/approle/role/axum-app/custom-secret-id secret_id="$APPROLE_SECRET_ID" >/dev/null
echo "set up: read logins from database/creds/app"
