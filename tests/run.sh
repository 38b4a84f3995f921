#!/usr/bin/env bash
# run.sh - install what is missing, build, run every suite, end with one line of counts.
#
# What this machine cannot run (no root, no network namespace, no torch) says SKIP, and is counted there.
#
#   tests/run.sh            everything CI runs
#   tests/run.sh quick      lints, release build, unit tests, fuzz corpora
#
# Suites: lints; unit tests, fuzz corpora and the simulation in a release build; the same under
# ASan+UBSan; the threaded parts under TSan; fuzz corpora as clang and libFuzzer build the targets; the
# daemon end to end with the official OpenAI clients; what deploys it, and the Debian package.  Its units
# under a systemd that runs want more of a machine than CI has for sure: tests/deploy/booted.sh.  Logs
# are in build/logs.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
mode=${1:-full}
jobs=$(nproc)
passed=0 failed=0 skipped=0
mkdir -p build/logs

say() { printf '\n== %s (at %d s)\n' "$*" "$SECONDS"; }
count() { # count NAME STATUS: one more passed or failed
    if [ "$2" -eq 0 ]; then passed=$((passed + 1)); else failed=$((failed + 1)); echo "FAILED: $1"; fi
}
finish() {
    echo
    local line="$passed passed, $failed failed"
    [ "$skipped" -eq 0 ] || line="$line, $skipped skipped"
    echo "$line"
    [ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
    exit $?
}

build() { # build PRESET
    say "build $1"
    local log=build/logs/build-$1.log
    if cmake --preset "$1" >"$log" 2>&1 && cmake --build --preset "$1" -j "$jobs" >>"$log" 2>&1; then
        # Right, but slow: ptxas only notes it.
        grep 'wgmma.* serialized' "$log" || return 0
    fi
    grep -E 'error|Error|FAILED' "$log" | head -20
    tail -5 "$log"
    count "build $1" 1
    finish
}

ctests() { # ctests PRESET [ctest arguments]: adds ctest's own counts; one more at once, as some only wait
    local preset=$1; shift
    say "ctest $preset $*"
    local log=build/logs/ctest-$preset-$$-$RANDOM.log
    ctest --test-dir "build/$preset" --output-on-failure -j $((jobs + 1)) "$@" >"$log" 2>&1
    local n bad off
    n=$(sed -nE 's/.*tests passed, [0-9]+ tests failed out of ([0-9]+)/\1/p' "$log")
    bad=$(sed -nE 's/.*tests passed, ([0-9]+) tests failed out of.*/\1/p' "$log")
    if [ -z "$n" ] || [ "$n" -eq 0 ]; then
        tail -5 "$log"; count "ctest $preset ran no test" 1; return
    fi
    [ "$bad" -eq 0 ] || { grep -E 'ERROR|FAILED|replay:|Failed|runtime error|Sanitizer' "$log" | head -60; }
    tail -3 "$log"
    off=$(grep -c '\*\*\*Skipped' "$log") # a device that is not there, say; ctest counts it as passed
    passed=$((passed + n - bad - off)); failed=$((failed + bad)); skipped=$((skipped + off))
}

say "packages"
deploy/setup.sh test || { count "install packages" 1; finish; }
if [ "$mode" != quick ]; then
    deploy/fetch-model.sh >/dev/null || count "fetch the model" 1
fi

say "lints"
for lint in tests/lint/*.sh; do
    "$lint" . ; count "$lint" $?
done

build release
ctests release
[ "$mode" = quick ] && finish

build dev
ASAN_OPTIONS=detect_stack_use_after_return=1 ctests dev
build tsan
ctests tsan -R 'ring|parallel|thread_pool|comm|test_ranks|quant_load|store_folder|engine_proc|scheduler_test|test_http|test_call|test_log'

build fuzz # by clang, with libFuzzer
ctests fuzz -L fuzz

failures() { # failures NAME LOG: each failed case with what it said, which may be long ago in the log
    grep -A6 '^FAIL  ' "$2" | cut -c1-500 | head -100 | sed "s/^FAIL  /FAILED: $1: /"
}

counted() { # counted NAME COMMAND...: adds the counts of its last line
    local name=$1 log line ok bad off status
    shift
    say "$name"
    log=build/logs/${name// /-}.log
    "$@" >"$log" 2>&1
    status=$?
    tail -15 "$log"
    line=$(grep -E '^[0-9]+ passed, [0-9]+ failed' "$log" | tail -1)
    if [ -z "$line" ]; then count "$name (no count)" 1; return; fi
    ok=${line%% passed*}; bad=${line#*, }; bad=${bad%% failed*}
    case $line in *skipped) off=${line##*failed, }; skipped=$((skipped + ${off%% skipped})) ;; esac
    passed=$((passed + ok)); failed=$((failed + bad))
    [ "$bad" -eq 0 ] || failures "$name" "$log"
    if [ "$status" -ne 0 ] && [ "$bad" -eq 0 ]; then count "$name exit $status" 1; fi
}

model=models/SmolLM2-135M-Instruct.Q4_1.gguf
counted "end to end" python3 tests/e2e/run.py --model $model
counted "deploy" python3 tests/deploy/run.py --model $model
if unshare --mount true 2>/dev/null; then # root, and not in a sandbox that forbids it
    counted "package" tests/deploy/package.sh build/release $model
else
    echo "SKIP  package: wants root and mounts"
    skipped=$((skipped + 1))
fi
finish
