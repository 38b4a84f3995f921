#!/usr/bin/env bash
# booted.sh - the units under a systemd that runs: a Debian 12 is booted in a container, with the package in it.
#
#   tests/deploy/booted.sh BUILD-FOLDER MODEL.gguf
#
# Wants root and systemd-nspawn.  The container shares the network, of which loopback alone is used; its files are a
# copy.  Ends with a line of counts.
set -euo pipefail
cd "$(dirname "$0")/../.."
build=$(realpath "$1")
model=$(realpath "$2")
work=$(mktemp -d /tmp/inferd-booted.XXXXXX)
root=$work/root
nspawn=
finish() {
    if [ -n "$nspawn" ] && kill -0 "$nspawn" 2>/dev/null; then
        kill -KILL "$leader" "$nspawn" 2>/dev/null || true
        wait "$nspawn" 2>/dev/null || true
    fi
    rm -rf --one-file-system "$work"
}
trap finish EXIT
suite=booted
# shellcheck source=tests/deploy/bookworm.sh
. tests/deploy/bookworm.sh

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
until_true() { # until_true SECONDS COMMAND...
    local n=$(($1 * 5))
    shift
    until "$@"; do
        n=$((n - 1))
        [ "$n" -gt 0 ] || return 1
        sleep 0.2
    done
}
# Bounded: a unit that never gets ready would be waited for as long as its TimeoutStartSec.
inside() { timeout -k 5 60 nsenter -t "$leader" -m -u -i -n -p "$@"; }
ready() { curl -fs -m 5 "http://127.0.0.1:$1/readyz" >/dev/null; }
show() { inside systemctl show "$1" -p "$2" --value; }

make_root() {
    mkdir "$root" && tar -xf "$tar" -C "$root" && install -D -m 0644 -t "$root/srv/models" "$model" &&
        cp "$deb" "$root/tmp/inferd.deb" && chroot "$root" dpkg -i /tmp/inferd.deb &&
        printf 'model = /srv/models/%s\nserved-model-name = m\nport = %s\nkv-memory = 128MiB\n' \
            "$(basename "$model")" "$port" >>"$root/etc/inferd.conf" &&
        mkdir -p "$root/etc/systemd/system/inferd.socket.d" &&
        printf '[Socket]\nListenStream=\nListenStream=127.0.0.1:%s\n' "$socket_port" \
            >"$root/etc/systemd/system/inferd.socket.d/port.conf" &&
        mv "$root/usr/lib/systemd/system/inferd.service.d" "$root/tmp/" 2>/dev/null ||
        [ ! -e "$root/usr/lib/systemd/system/inferd.service.d" ]
}
boot() {
    systemd-nspawn --quiet --register=no --keep-unit --console=pipe -D "$root" --boot >"$work/boot.log" 2>&1 &
    nspawn=$!
    leader=
    until_true 20 find_leader && until_true 60 runs_units
}
find_leader() { leader=$(pgrep -P "$nspawn" | head -1) && [ -n "$leader" ]; }
runs_units() { inside systemctl is-active -q multi-user.target 2>/dev/null; }

starts() { inside systemctl start inferd.service && ready "$port"; }
answers() {
    local i
    for i in 1 2 3 4 5 6 7 8 9 10; do
        curl -fsS -m 60 "http://127.0.0.1:$port/v1/completions" -H 'Content-Type: application/json' \
            -d "{\"model\":\"m\",\"prompt\":\"$i and\",\"max_tokens\":4}" >/dev/null || return 1
    done
}
is_confined() {
    local pid status
    pid=$(show inferd MainPID)
    status=$(inside cat "/proc/$pid/status")
    grep -q 'CapEff:.0000000000000000' <<<"$status" && grep -q 'NoNewPrivs:.1' <<<"$status" &&
        grep -q 'Seccomp:.2' <<<"$status" && ! inside nsenter -t "$pid" -m touch /usr/x /srv/models/x 2>/dev/null
}
watchdog_ends_it() { # a front that does not run is ended, and started again
    local pid
    pid=$(show inferd MainPID)
    inside kill -STOP "$pid" && until_true 30 restarted && [ "$(show inferd MainPID)" != "$pid" ] &&
        inside journalctl -u inferd --no-pager | grep -q 'Watchdog timeout'
}
restarted() { [ "$(show inferd NRestarts)" -ge 1 ] && ready "$port"; }
engine_comes_back() {
    local pid engine
    pid=$(show inferd MainPID)
    engine=$(inside pgrep -P "$pid") && inside kill -KILL "$engine" && sleep 0.5 && until_true 20 ready "$port" &&
        [ "$(show inferd MainPID)" = "$pid" ] && [ "$(inside pgrep -P "$pid")" != "$engine" ]
}
reloads() { inside systemctl reload inferd && inside journalctl -u inferd --no-pager | grep -q 'keys read again'; }
stops() { inside systemctl stop inferd && [ "$(show inferd Result)" = success ]; }
socket_starts_it() {
    inside systemctl start inferd.socket && ! inside systemctl is-active -q inferd.service &&
        curl -fs -m 60 "http://127.0.0.1:$socket_port/livez" >/dev/null && until_true 30 ready "$socket_port"
}
restarts_refuse_nobody() {
    local i
    for i in 1 2 3; do inside systemctl restart inferd; done & local restarts=$!
    while kill -0 "$restarts" 2>/dev/null; do
        curl -fs -m 60 "http://127.0.0.1:$socket_port/livez" >/dev/null || { echo "curl: $?"; return 1; }
    done
    wait "$restarts"
}
cuda_drop_in_starts() {
    inside systemctl stop inferd.socket inferd.service && mkdir -p "$root/etc/systemd/system/inferd.service.d" &&
        cp deploy/inferd.service.d/cuda.conf "$root/etc/systemd/system/inferd.service.d/" &&
        inside systemctl daemon-reload && inside systemctl start inferd && answers
}
ends() { inside systemctl poweroff && until_true 40 gone; }
gone() { ! kill -0 "$nspawn" 2>/dev/null; }

port=$(free_port)
socket_port=$(free_port)
is "cpack makes the package" make_package
deb=$(ls "$work"/deb/*.deb)
is "a bare Debian 12" make_tar
is "the package is in it" make_root
boot || { tail -5 "$work/boot.log"; failed=$((failed + 1)); end; }
is "the unit starts, and is ready when systemd says so" starts
[ "$failed" -eq 0 ] || end
is "it answers ten requests" answers
is "it has no rights, a filter, and a read-only system" is_confined
is "its watchdog ends a front that hangs, and it comes back" watchdog_ends_it
is "an engine that dies is started again inside" engine_comes_back
is "systemctl reload is heard" reloads
is "systemctl stop is a clean end" stops
is "a connection to the socket starts it" socket_starts_it
is "three restarts refuse nobody" restarts_refuse_nobody
is "it starts with the GPU's drop-in too" cuda_drop_in_starts
is "the machine ends" ends
end
