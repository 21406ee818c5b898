#!/bin/sh
# Lets the pods of one service account log in. Once, after deploy/vault/setup.sh, which makes the
# database's roles and the policy "orders". May run again. Needs `bao` or `vault`, logged in.
set -eu

# The API server as the Vault server sees it, its CA (PEM), and a token that may review others (of
# reviewer.yaml): two files. Without both Vault runs in a pod of that cluster, and finds its own.
: "${KUBERNETES_HOST:=https://kubernetes.default.svc:443}"
: "${KUBERNETES_CA:=}"
: "${KUBERNETES_REVIEWER_JWT:=}"
: "${NAMESPACE:=orders}"

# Vault would review a login with the token that it is shown, which has another audience than the API
# server's: all logins would fail.
if [ -n "$KUBERNETES_CA" ] && [ -z "$KUBERNETES_REVIEWER_JWT" ]; then
    echo "KUBERNETES_CA without KUBERNETES_REVIEWER_JWT: see deploy/kubernetes/README.md" >&2
    exit 2
fi

vault_cli() {
    if command -v bao >/dev/null; then bao "$@"; else vault "$@"; fi
}

vault_cli auth list | grep -q '^kubernetes/' || vault_cli auth enable kubernetes
vault_cli write auth/kubernetes/config kubernetes_host="$KUBERNETES_HOST" \
    ${KUBERNETES_CA:+kubernetes_ca_cert=@"$KUBERNETES_CA"} \
    ${KUBERNETES_REVIEWER_JWT:+token_reviewer_jwt=@"$KUBERNETES_REVIEWER_JWT"}

# The audience is that of the projected token: one for the API server is of no use here, nor this
# one there.
vault_cli write auth/kubernetes/role/orders \
    bound_service_account_names=orders bound_service_account_namespaces="$NAMESPACE" \
    audience=vault token_policies=orders token_no_default_policy=true \
    token_ttl=1h token_max_ttl=24h
