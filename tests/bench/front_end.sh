#!/bin/bash
# front_end.sh - what the front costs when the model costs nothing: the fake engine, many streams.
#
#   tests/bench/front_end.sh MODEL [STREAMS] [TOKENS]
#
# INFERD: the program (build/release/inferd).  MODEL lends its tokenizer.  Prints, with client and
# server on this machine: events per second with an engine that is never waited for (a slow client
# then gets several events in a write) and with one that gives every stream one token per 10 ms
# (then each event is a write of its own); the server's CPU time per event, which other work on the
# machine hardly moves; memory of a stream; CPU when idle; and what a client that never reads does to
# a hundred others.
set -euo pipefail
cd "$(dirname "$0")/../.."
model=${1:?front_end.sh MODEL [STREAMS] [TOKENS]} streams=${2:-1000} tokens=${3:-400}
inferd=${INFERD:-build/release/inferd}
dir=$(mktemp -d) server=
stop() { [ -z "$server" ] || { kill "$server" && wait "$server" || true; } 2>/dev/null; server=; }
trap 'stop; rm -rf "$dir"' EXIT
hz=$(getconf CLK_TCK)

start() { # start STEP_US: sets server, url
    "$inferd" serve "$model" --engine fake --fake-step-us "$1" --port 0 --prefix-cache off \
        --max-seqs "$((streams + 8))" --max-step-tokens "$((16 * streams))" --max-context 32768 \
        --kv-blocks 262144 --queue-max "$((2 * streams))" --log-requests off 2>"$dir/log" &
    server=$!
    local port='' i
    for ((i = 0; i < 100; i++)); do
        port=$(sed -n 's/.*listening.* port=\([0-9]*\).*/\1/p' "$dir/log")
        [ -z "$port" ] || ! grep -q "engine ready" "$dir/log" || break
        sleep 0.1
    done
    url=http://127.0.0.1:${port:?the server did not start}
}
load() { # load FILE ARGS: bench http, in which every request must be answered in full
    "$inferd" bench http --url "$url" --json "${@:2}" >"$1" || { cat "$1" "$dir/log" >&2; exit 1; }
}
field() { # field NAME FILE
    python3 -c 'import json, sys
v = json.load(open(sys.argv[2]))
for k in sys.argv[1].split("."): v = v[k]
print(v)' "$1" "$2"
}
rss_kib() { awk '/^VmRSS/ {print $2}' "/proc/$server/status"; }
cpu_ticks() { awk '{print $14 + $15}' "/proc/$server/stat"; }

run_streams() { # run_streams NAME: sets used (CPU ticks) and peak_kib
    local before client now_kib
    before=$(cpu_ticks)
    load "$dir/$1" --concurrency "$streams" --requests "$streams" --max-tokens "$tokens" &
    client=$!
    peak_kib=0
    while kill -0 "$client" 2>/dev/null; do
        now_kib=$(rss_kib)
        ((now_kib > peak_kib)) && peak_kib=$now_kib
        sleep 0.1
    done
    wait "$client"
    used=$(($(cpu_ticks) - before))
}
print_streams() { # print_streams NAME
    awk -v name="$1" -v rate="$(field events_per_s "$dir/$1")" -v n="$(field events "$dir/$1")" \
        -v p50="$(field between_ms.p50 "$dir/$1")" -v p99="$(field between_ms.p99 "$dir/$1")" \
        -v client="$(field client_cpu_s "$dir/$1")" -v used="$used" -v hz="$hz" 'BEGIN {
        printf "%-8s %8.0f events/s  server %.2f us, client %.2f us of CPU an event; %d events, between two p50 %.2f, p99 %.2f ms\n",
            name, rate, used / hz / n * 1e6, client / n * 1e6, n, p50, p99 }'
}

start 0
load "$dir/warm" --concurrency 8 --requests 8 --max-tokens 16
idle_kib=$(rss_kib)
before=$(cpu_ticks)
sleep 5
awk -v n="$(($(cpu_ticks) - before))" -v hz="$hz" 'BEGIN {printf "idle     %.2f %% of a CPU\n", n / hz / 5 * 100}'
run_streams unpaced
print_streams unpaced
stop

start 10000
load "$dir/warm" --concurrency 8 --requests 8 --max-tokens 16
idle_kib=$(rss_kib)
run_streams paced
print_streams paced
awk -v kib="$((peak_kib - idle_kib))" -v n="$streams" \
    'BEGIN {printf "memory   %.1f KiB a stream\n", kib / n}'

stop

# One pair a round, in turn: what else the machine does falls on both alike.  The client that does not
# read asks for megabytes, so that its socket is full while the others run.
start 1000
for ((round = 0; round < 5; round++)); do
    load "$dir/without.$round" --concurrency 100 --requests 100 --max-tokens 1000
    load "$dir/with.$round" --concurrency 100 --requests 100 --max-tokens 1000 --stalled 1
done
median_p99() {
    for f in "$dir/$1".*; do field between_ms.p99 "$f"; done | sort -n | sed -n 3p
}
printf 'stalled  100 streams, p99 between two events: %s ms alone, %s ms beside a client that never reads\n' \
    "$(median_p99 without)" "$(median_p99 with)"
