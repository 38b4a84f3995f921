#!/usr/bin/env bash
# setup.sh - install what a build needs (Debian packages), and nothing that is there already.
#
#   deploy/setup.sh [build|test]    `test` adds compilers, linters and clients for the test suites
set -euo pipefail

build=(gcc cmake ninja-build pkg-config libmicrohttpd-dev libuv1-dev libcjson-dev
       libutf8proc-dev nettle-dev libcmocka-dev python3 python3-pip python3-venv ca-certificates curl)
tests=(prometheus procps shellcheck systemd libseccomp2 dpkg-dev file mmdebstrap util-linux iproute2
       openmpi-bin clang libclang-rt-dev)
want=("${build[@]}")
[ "${1:-build}" = test ] && want+=("${tests[@]}")

# A machine may have these from elsewhere than Debian's packages.
if python3 -m pip --version >/dev/null 2>&1 && python3 -c 'import ensurepip, venv' 2>/dev/null; then
    want=("${want[@]/python3-pip/}"); want=("${want[@]/python3-venv/}")
fi
if [ "${1:-build}" = test ] && ! command -v npm >/dev/null; then
    want+=(nodejs npm)
fi

missing=()
for p in "${want[@]}"; do
    [ -z "$p" ] && continue
    dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing+=("$p")
done
[ ${#missing[@]} -eq 0 ] && exit 0

root=()
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || { echo "setup: need root or sudo to install: ${missing[*]}" >&2; exit 1; }
    root=(sudo)
fi
echo "setup: installing ${missing[*]}" >&2
"${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -qq
"${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    "${missing[@]}" >/dev/null
