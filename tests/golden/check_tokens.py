"""Compares tokens and cuts with the live reference, on more text than is worth keeping.

    python3 tests/golden/check_tokens.py BENCH_TOKENIZER MODEL.gguf [TOKENIZER.json ...]

A tokenizer.json is turned into a GGUF file of its vocabulary first (pre-tokenizer llama-bpe).
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import token_reference as reference
import token_text

SEED, N_BYTES = 7, 1_500_000


def ours(*args):
    out = subprocess.run([bench, *map(str, args)], check=True, capture_output=True, text=True)
    return [int(line) for line in out.stdout.split()]


def compare(what, text, mine, theirs):
    if mine == theirs:
        print(f"ok    {what}: {len(text.encode())} bytes, {len(mine)} values equal")
        return True
    at = next((i for i, (a, b) in enumerate(zip(mine, theirs)) if a != b), min(map(len, (mine, theirs))))
    print(f"FAIL  {what}: value {at}: ours {mine[at:at + 8]}, reference {theirs[at:at + 8]}")
    return False


def write_gguf(tokenizer_json, path):
    import gguf

    model = json.loads(pathlib.Path(tokenizer_json).read_text())
    vocab = dict(model["model"]["vocab"])
    types = [gguf.TokenType.NORMAL] * (max(max(vocab.values()), 0) + 1)
    for t in model["added_tokens"]:
        vocab[t["content"]] = t["id"]
        types += [gguf.TokenType.UNUSED] * (t["id"] + 1 - len(types))
        types[t["id"]] = gguf.TokenType.CONTROL if t["special"] else gguf.TokenType.USER_DEFINED
    tokens = [f"[hole {i}]" for i in range(len(types))]
    for text, i in vocab.items():
        tokens[i] = text
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["model"]["merges"]]
    w = gguf.GGUFWriter(path, "llama")
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("llama-bpe")
    w.add_token_list(tokens)
    w.add_token_types(types)
    w.add_token_merges(merges)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def main():
    ok = True
    with tempfile.TemporaryDirectory() as folder:
        sample = pathlib.Path(folder) / "text"
        everything = "".join(chr(c) + "a " for c in range(0x110000) if not 0xD800 <= c < 0xE000)
        for what, text in (("mixed", token_text.make(SEED, N_BYTES)), ("all code points", everything)):
            sample.write_bytes(text.encode())
            for name in reference.SPLITS:
                ok &= compare(f"{what}, split {name}", text, ours("--split", name, sample),
                              reference.splits(name, text))
            for mode, special in (("--ids", False), ("--special", True)):
                tok = reference.from_gguf(sys.argv[2], special)
                ok &= compare(f"{what}, {mode}", text, ours(mode, sys.argv[2], sample),
                              tok.encode(text).ids)
            for path in sys.argv[3:]:
                vocab = pathlib.Path(folder) / "vocab.gguf"
                write_gguf(path, vocab)
                tok = reference.Tokenizer.from_file(path)
                ok &= compare(f"{what}, {path}", text, ours("--special", vocab, sample),
                              tok.encode(text, add_special_tokens=False).ids)
    sys.exit(not ok)


bench = sys.argv[1]
main()
