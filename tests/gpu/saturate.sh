#!/usr/bin/env bash
# saturate.sh - tokens a second of a served model that has more requests than it can take: 1000 in, 1000 out.
#
#   saturate.sh BIN-FOLDER MODEL-FOLDER REQUESTS [--rate R] [serve's options]
#
# All requests come at once, or R a second: a little more than the server finishes fills it as it then
# stays, where a burst leaves it prompts for a minute.
# MODEL-FOLDER: what make_random_hf.py made; of one without weights (--texts) they are random.  Prints what
# `inferd bench http` says.
set -euo pipefail
bin=$(cd "$1" && pwd)
model=$2 requests=$3
shift 3
rate=inf
[ "${1:-}" != --rate ] || { rate=$2; shift 2; }
port=${INFERD_PORT:-18080}
weights="file"
compgen -G "$model/*.safetensors" >/dev/null || weights=random
work=$(mktemp -d /tmp/inferd-saturate-XXXXXX)
"$bin/inferd" serve "$model" --weights "$weights" --device cuda --port "$port" --queue-max 4096 --queue-wait-ms 0 \
    --max-connections 4096 --log-level warn "$@" >"$work/log" 2>&1 &
server=$!
trap 'kill $server 2>/dev/null; wait $server 2>/dev/null; rm -rf "$work"' EXIT
for _ in $(seq 600); do
    "$bin/inferd" health --port "$port" >/dev/null 2>&1 && break
    kill -0 $server 2>/dev/null || break
    sleep 0.2
done
"$bin/inferd" bench http --url "http://127.0.0.1:$port" --rate "$rate" --requests "$requests" \
    --prompt-tokens 1000 --max-tokens 1000 --time-s 3600 || { tail -20 "$work/log" >&2; exit 1; }
