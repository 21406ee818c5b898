#!/usr/bin/env bash
# check.sh on an image whose program is called `vault` alone, as that of HashiCorp is: made from one
# that has `bao`, since HashiCorp's can't be had everywhere. Removes the image afterwards.
#
#   deploy/compose/check_vault.sh openbao/openbao:2.7.2 "docker compose"
set -euo pipefail
[ $# = 2 ] || { echo "usage: $0 IMAGE COMPOSE" >&2; exit 2; }

image=leasehold-check/vault-only:$$
remove() { docker rmi "$image" >/dev/null 2>&1 || true; }
trap remove EXIT
trap 'exit 1' INT TERM HUP

# The entrypoint of either image says `bao`, so that it is given the new name too.
docker build --quiet -t "$image" - >/dev/null <<END
FROM $1
USER root
RUN set -eu; bao=\$(command -v bao); mv "\$bao" "\$(dirname "\$bao")/vault"; \
    sed -i 's/\bbao\b/vault/g' "\$(command -v docker-entrypoint.sh)"
USER openbao
END
! docker run --rm --entrypoint sh "$image" -c 'command -v bao' || { echo "bao is still there" >&2; exit 1; }

# shellcheck disable=SC2086
VAULT_IMAGE=$image "$(dirname "$0")/check.sh" $2
