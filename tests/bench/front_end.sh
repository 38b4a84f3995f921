#!/bin/bash
# front_end.sh - what the front costs when the model costs nothing: the fake engine, many streams.
#
#   tests/bench/front_end.sh MODEL [STREAMS] [TOKENS]
#
# INFERD: the program (build/release/inferd).  MODEL lends its tokenizer.  Prints events per second
# with client and server on this machine, the server's CPU time per event (which other work on the
# machine hardly moves), memory of a stream, CPU when idle, and what a client that never reads does to
# a hundred others.
set -euo pipefail
cd "$(dirname "$0")/../.."
model=${1:?front_end.sh MODEL [STREAMS] [TOKENS]} streams=${2:-1000} tokens=${3:-400}
inferd=${INFERD:-build/release/inferd}
dir=$(mktemp -d)
trap 'kill "$server" 2>/dev/null || true; rm -rf "$dir"' EXIT

"$inferd" serve "$model" --engine fake --port 0 --max-seqs "$((streams + 8))" \
    --max-step-tokens "$((16 * streams))" --max-context 32768 --kv-blocks 262144 \
    --queue-max "$((2 * streams))" --prefix-cache off --log-requests off 2>"$dir/log" &
server=$!
for ((i = 0; i < 100; i++)); do
    port=$(sed -n 's/.*listening.* port=\([0-9]*\).*/\1/p' "$dir/log")
    [ -z "$port" ] || ! grep -q "engine ready" "$dir/log" || break
    sleep 0.1
done
url=http://127.0.0.1:${port:?the server did not start}

rss_kib() { awk '/^VmRSS/ {print $2}' "/proc/$server/status"; }
cpu_ticks() { awk '{print $14 + $15}' "/proc/$server/stat"; }
field() { # field NAME FILE
    python3 -c 'import json, sys
v = json.load(open(sys.argv[2]))
for k in sys.argv[1].split("."): v = v[k]
print(v)' "$1" "$2"
}
load() { # load FILE ARGS: bench http, and the requests that were not answered in full
    "$inferd" bench http --url "$url" --json "${@:2}" >"$1" || { cat "$1" "$dir/log" >&2; exit 1; }
}

hz=$(getconf CLK_TCK)
load "$dir/warm" --concurrency 8 --requests 8 --max-tokens 16
idle_kib=$(rss_kib)
before=$(cpu_ticks)
sleep 5
idle=$(awk -v n="$(($(cpu_ticks) - before))" -v hz="$hz" 'BEGIN {printf "%.2f", n / hz / 5 * 100}')

before=$(cpu_ticks)
load "$dir/load" --concurrency "$streams" --requests "$streams" --max-tokens "$tokens" --rate 2000 &
client=$!
peak_kib=$idle_kib
while kill -0 "$client" 2>/dev/null; do
    now_kib=$(rss_kib)
    ((now_kib > peak_kib)) && peak_kib=$now_kib
    sleep 0.1
done
wait "$client"
used=$(($(cpu_ticks) - before))

awk -v rate="$(field events_per_s "$dir/load")" -v n="$(field events "$dir/load")" \
    -v p99="$(field between_ms.p99 "$dir/load")" -v client="$(field client_cpu_s "$dir/load")" \
    -v used="$used" -v hz="$hz" -v kib="$((peak_kib - idle_kib))" -v streams="$streams" -v idle="$idle" 'BEGIN {
    printf "events/s             %10.0f   (%d events, %d streams; time between events p99 %.1f ms)\n", rate, n, streams, p99
    printf "server CPU per event %10.2f us\n", used / hz / n * 1e6
    printf "client CPU per event %10.2f us\n", client / n * 1e6
    printf "memory of a stream   %10.1f KiB\n", kib / streams
    printf "CPU when idle        %10s %%\n", idle }'

# Paced by the network alone, a client that never reads fills its socket, then waits in the server.
for ((round = 0; round < 5; round++)); do
    load "$dir/with.$round" --concurrency 100 --requests 400 --max-tokens 200 --stalled 1
    load "$dir/without.$round" --concurrency 100 --requests 400 --max-tokens 200
done
median_p99() {
    for f in "$dir/$1".*; do field between_ms.p99 "$f"; done | sort -n | sed -n 3p
}
printf 'p99 between events, 100 streams: %s ms alone, %s ms beside a client that never reads\n' \
    "$(median_p99 without)" "$(median_p99 with)"
