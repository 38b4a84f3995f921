#!/bin/sh
# families.sh - only engine/arch/ and its table know a model family by name.
set -eu
cd "${1:-.}"
if grep -niE 'llama|qwen|gemma|mistral|deepseek|phi3' engine/decoder.[ch] engine/model.[ch] \
        engine/runner.[ch] engine/plan.[ch] engine/weights.[ch] kernels/*.[ch] kernels/cpu/*.[ch] \
        scheduler/*.[ch] server/*.[ch] 2>/dev/null | grep -viE '^kernels/ops.h.*GGUF|llama\.cpp'; then
    echo "families: a family's name outside engine/arch/" >&2
    exit 1
fi
