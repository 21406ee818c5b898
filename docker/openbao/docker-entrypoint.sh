#!/bin/sh
# Starts as the images of OpenBao and Vault do, with either's variables.
set -eu

config=/openbao/config
local_config=${BAO_LOCAL_CONFIG:-${VAULT_LOCAL_CONFIG:-}}
if [ -n "$local_config" ]; then printf '%s\n' "$local_config" > "$config/local.json"; fi

case "${1:-}" in -*) set -- bao "$@" ;; esac
if [ "${1:-}" = server ]; then
    shift
    set -- bao server "-config=$config" \
        "-dev-root-token-id=${BAO_DEV_ROOT_TOKEN_ID:-${VAULT_DEV_ROOT_TOKEN_ID:-}}" \
        "-dev-listen-address=${BAO_DEV_LISTEN_ADDRESS:-${VAULT_DEV_LISTEN_ADDRESS:-0.0.0.0:8200}}" \
        "$@"
elif ! command -v "${1:-}" >/dev/null 2>&1; then
    set -- bao "$@" # a subcommand
fi
exec "$@"
