#!/usr/bin/env bash
# quickstart.sh - from a fresh clone to an answer: install, build, fetch a model, serve, ask.
#
# Serves on 127.0.0.1:8080 (PORT=... for another) until Ctrl-C.  A second run only starts.
set -euo pipefail
cd "$(dirname "$0")/.."
port=${PORT:-8080}

step() { printf '\033[1m==> %s\033[0m\n' "$*" >&2; }

step "packages"
deploy/setup.sh build
step "build"
targets=(inferd)
if [ -e /dev/nvidia0 ] && command -v nvcc >/dev/null; then targets+=(inferd_cuda); fi
cmake --preset release >build-quickstart.log 2>&1 &&
    cmake --build --preset release --target "${targets[@]}" -j "$(nproc)" >>build-quickstart.log 2>&1 ||
    { tail -30 build-quickstart.log >&2; exit 1; }
rm -f build-quickstart.log
step "model"
model=$(deploy/fetch-model.sh)

step "serve"
build/release/inferd serve --model "$model" --served-model-name smollm2-135m-instruct \
    --host 127.0.0.1 --port "$port" &
server=$!
trap 'kill "$server" 2>/dev/null; wait "$server" 2>/dev/null || true' EXIT
trap 'exit 0' INT TERM
for _ in $(seq 600); do
    curl -fs "http://127.0.0.1:$port/readyz" >/dev/null 2>&1 && break
    kill -0 "$server" 2>/dev/null || { echo "quickstart: the server ended" >&2; exit 1; }
    sleep 0.1
done

body='{"model":"smollm2-135m-instruct","stream":true,"max_tokens":80,"temperature":0,
"messages":[{"role":"user","content":"Name three things a lighthouse keeper does at night."}]}'
step "one question: Name three things a lighthouse keeper does at night."
curl -sN "http://127.0.0.1:$port/v1/chat/completions" -H 'Content-Type: application/json' \
    -d "$body" | python3 -c '
import json, sys
for line in sys.stdin:
    if line.startswith("data: {"):
        event = json.loads(line[6:])
        if "error" in event:
            sys.exit("quickstart: " + event["error"]["message"])
        for choice in event["choices"]:
            print(choice["delta"].get("content") or "", end="", flush=True)
print()'

cat >&2 <<MSG

inferd answers at http://127.0.0.1:$port/v1 until Ctrl-C.  Try:

  curl -N http://127.0.0.1:$port/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{"model":"smollm2-135m-instruct","stream":true,"messages":[{"role":"user","content":"Hello!"}]}'

MSG
wait "$server"
