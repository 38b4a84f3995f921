#!/usr/bin/env bash
# package.sh - make the Debian package, and live through its life in a bare Debian 12: install, serve, upgrade,
# remove, purge.
#
#   tests/deploy/package.sh BUILD-FOLDER MODEL.gguf
#
# Wants root.  Nothing of this machine is mounted into the system but a fresh /proc: what is removed at the end
# is a copy.  Ends with a line of counts.
set -euo pipefail
cd "$(dirname "$0")/../.."
build=$(realpath "$1")
model=$(realpath "$2")
if [ "${INFERD_PACKAGE_NAMESPACE:-}" != 1 ]; then
    INFERD_PACKAGE_NAMESPACE=1 exec unshare --mount "$0" "$build" "$model"
fi
work=$(mktemp -d /tmp/inferd-package.XXXXXX)
root=$work/root
server=
finish() {
    [ -z "$server" ] || kill "$server" 2>/dev/null || true
    ! mountpoint -q "$root/proc" || umount "$root/proc" || return
    rm -rf --one-file-system "$work"
}
trap finish EXIT
suite=package
# shellcheck source=tests/deploy/bookworm.sh
. tests/deploy/bookworm.sh

# Arrays, not functions: a daemon started by them has the id that bash knows.
within=(env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive chroot "$root")
# What the unit does to the process: its user, no rights, no way to new ones.
as_inferd=("${within[@]}" setpriv --reuid inferd --regid inferd --clear-groups --no-new-privs --bounding-set=-all)

says_what_it_needs() {
    local field list name
    field=$(dpkg-deb -f "$deb" Depends)
    for name in procps libc6 libcjson1 libmicrohttpd12 libnettle8 libutf8proc2 libuv1; do
        grep -q "$name" <<<"$field" || { echo "Depends lacks $name: $field"; return 1; }
    done
    [ "$(dpkg-deb -I "$deb" conffiles)" = /etc/inferd.conf ] || { echo "conffiles"; return 1; }
    list=$(dpkg-deb -c "$deb")
    for name in usr/bin/inferd usr/lib/systemd/system/inferd.service usr/lib/systemd/system/inferd.socket \
        usr/lib/sysusers.d/inferd.conf usr/share/man/man8/inferd.8.gz usr/share/doc/inferd/copyright; do
        grep -q " ./$name\$" <<<"$list" || { echo "no $name"; return 1; }
    done
    if [ -f "$build/libinferd_cuda.so" ]; then
        grep -q ' ./usr/lib/inferd/libinferd_cuda.so$' <<<"$list" || { echo "no CUDA module"; return 1; }
        grep -q 'inferd.service.d/cuda.conf$' <<<"$list" || { echo "no cuda.conf"; return 1; }
        [ "$(dpkg-deb -f "$deb" Suggests)" = libnccl2 ] || { echo "no Suggests: libnccl2"; return 1; }
    fi
}

make_root() {
    mkdir "$root" && tar -xf "$tar" -C "$root" && install -D -m 0644 -t "$root/models" "$model" &&
        mount -t proc proc "$root/proc"
}
files() { # every file of the system but package bookkeeping
    (cd "$root" && find . \( -path ./proc -o -path ./dev -o -path ./models -o -path ./var/lib/dpkg \
        -o -path ./var/lib/apt -o -path ./var/cache -o -path ./var/log -o -path ./tmp \) -prune \
        -o ! -path './etc/*shadow-' ! -path './etc/passwd-' ! -path './etc/group-' -print | sort)
}
install_package() { cp "$deb" "$root/tmp/inferd.deb" && "${within[@]}" dpkg -i /tmp/inferd.deb; }
has_its_user() { grep -qE '^inferd:x:[0-9]+:[0-9]+:.*:/nonexistent:/usr/sbin/nologin$' "$root/etc/passwd"; }

serve() { # with a file of options and keys as an operator would write them
    printf 'model = /models/%s\nserved-model-name = m\nport = %s\napi-key-file = /etc/inferd.keys\nkv-memory = 128MiB\n' \
        "$(basename "$model")" "$port" >>"$root/etc/inferd.conf"
    echo a-key >"$root/etc/inferd.keys"
    "${within[@]}" chown root:inferd /etc/inferd.keys
    chmod 0640 "$root/etc/inferd.keys"
    "${as_inferd[@]}" /usr/bin/inferd serve >"$work/serve.log" 2>&1 &
    server=$!
    for _ in $(seq 300); do
        "${as_inferd[@]}" /usr/bin/inferd health >/dev/null 2>&1 && return 0
        kill -0 "$server" 2>/dev/null || break
        sleep 0.1
    done
    tail -5 "$work/serve.log"
    return 1
}
ask() {
    curl -fsS "http://127.0.0.1:$port/v1/completions" -H 'Content-Type: application/json' -H 'Authorization: Bearer a-key' \
        -d '{"model":"m","prompt":"The capital of France is","max_tokens":4,"temperature":0}' | grep -q Paris
}
keeps_options() { "${within[@]}" dpkg -i --force-confold /tmp/inferd.deb >/dev/null && grep -q '^served-model-name = m$' "$root/etc/inferd.conf"; }
remove() { "${within[@]}" dpkg -r inferd >/dev/null && [ -f "$root/etc/inferd.conf" ] && [ ! -e "$root/usr/bin/inferd" ]; }
purge() {
    "${within[@]}" dpkg -P inferd >/dev/null || return 1
    rm "$root/etc/inferd.keys" # the operator's
    files >"$work/after"
    diff "$work/before" "$work/after"
}

is "cpack makes it" make_package
deb=$(ls "$work"/deb/*.deb)
is "it says what it needs, and has what it should" says_what_it_needs
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
is "a bare Debian 12 with what it needs" make_tar
is "the bare system is mounted" make_root
[ "$failed" -eq 0 ] || end
files >"$work/before"
is "dpkg installs it" install_package
is "its user is there and cannot log in" has_its_user
is "the manual page is there" "${within[@]}" sh -c 'zcat /usr/share/man/man8/inferd.8.gz | grep -q "^.SH SYNOPSIS"'
serve || true # not in `is`: a command substitution would wait for the daemon's end
is "it serves as that user, without rights" "${as_inferd[@]}" /usr/bin/inferd health
is "it answers" ask
kill "$server" && wait "$server" && code=0 || code=$?
server=
is "it stops when told" test "$code" -eq 0
is "an upgrade keeps the operator's options" keeps_options
is "dpkg -r leaves the options and nothing else" remove
is "dpkg -P leaves nothing" purge
end
