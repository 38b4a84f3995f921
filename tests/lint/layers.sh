#!/bin/sh
# layers.sh - an include may point down or sideways, never up.
#
#   server -> scheduler -> engine -> kernels -> base
#
# Skipping a layer is an error too, except for the headers named below.
set -eu
cd "${1:-.}"

may() { # may FROM: folders whose headers FROM may include
    case $1 in
    base)      echo base ;;
    kernels)   echo base kernels ;;
    engine)    echo base kernels engine ;;
    scheduler) echo base engine scheduler ;;
    server)    echo base scheduler server ;;
    esac
}
# Read-only after start, so any thread may use them:
skip="server:engine/tokenizer.h server:engine/chat.h"
# What start-up alone touches: options, the file for both, `inferd check`:
skip="$skip server:engine/engine.h server:engine/model_text.h server:engine/check.h"
# `inferd quantize`, which serves nothing:
skip="$skip server:engine/store_folder.h"
# Benchmarks of kernels alone, and what a device can do at best; no part of serving:
skip="$skip server:kernels/backend.h server:kernels/bench.h"

bad=0
for from in base kernels engine scheduler server; do
    [ -d "$from" ] || continue
    for hit in $(grep -rhoE --include='*.[ch]' --include='*.cu' --include='*.cuh' \
                 '^#include "[a-z_]+/[^"]+"' "$from" | sed 's/.*"\(.*\)"/\1/' | sort -u); do
        to=${hit%%/*}
        case " $(may "$from") " in *" $to "*) continue ;; esac
        case " $skip " in *" $from:$hit "*) continue ;; esac
        echo "layers: $from/ must not include \"$hit\"" >&2
        bad=1
    done
done
exit $bad
