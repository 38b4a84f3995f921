#!/bin/sh
# families.sh - only engine/arch/ and its table know a model family by name.
set -eu
cd "${1:-.}"
# Not meant: what tokenizers and a rotary method are called in every family's files, and how GGUF has q and k.
if grep -rniE 'llama|qwen|gemma|mistral|deepseek|phi3' base kernels engine scheduler server \
        --include='*.[ch]' --include='*.cu' --include='*.cuh' |
        grep -vE '^engine/(arch/|arch_table\.c|tok_split\.[ch]|tokenizer\.c|config_hf\.c.*"?llama3)' |
        grep -vE '^kernels/ops\.h.*GGUF|llama\.cpp'; then
    echo "families: a family's name outside engine/arch/" >&2
    exit 1
fi
