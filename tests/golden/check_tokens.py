"""Compares tokens and cuts with the live reference, on more text than is worth keeping.

    python3 tests/golden/check_tokens.py BENCH_TOKENIZER [MODEL.gguf | FOLDER ...]

A folder has a tokenizer.json (fetch_tokenizers.sh brings some); from each, others are made that
have added tokens with every rule, normal form C, and each known pattern.
"""

import copy
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
        print(f"ok    {what}: {len(text.encode())} bytes, {len(mine)} values equal", flush=True)
        return True
    at = next((i for i, (a, b) in enumerate(zip(mine, theirs)) if a != b), min(map(len, (mine, theirs))))
    print(f"FAIL  {what}: value {at}: ours {mine[at:at + 8]}, reference {theirs[at:at + 8]}")
    return False


def variants(model):
    """Tokenizers that the reference reads and that no file at hand is."""
    top = max([*model["model"]["vocab"].values(), *(t["id"] for t in model["added_tokens"])])
    for i, pattern in enumerate(reference.PATTERNS):
        m = copy.deepcopy(model)
        m["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {"Regex": pattern}
        m["model"]["ignore_merges"] = i % 2 == 1
        m["model"]["merges"] = [
            x.split(" ") if isinstance(x, str) and i < 2 else x for x in m["model"]["merges"]]
        m["normalizer"] = {"type": "NFC"} if i % 3 == 0 else None
        m["added_tokens"] += reference.added_tokens(top + 1)
        yield f"variant {i}", m
    for name, pre in (("gpt-2", None), ("digits", {"type": "Digits", "individual_digits": True})):
        m = copy.deepcopy(model)
        byte = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                "use_regex": True}
        m["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [pre, byte]} if pre else byte
        m["post_processor"] = {"type": "Sequence", "processors": [
            {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False,
             "use_regex": True}]}
        yield name, m


def check_folder(folder, texts, scratch):
    ok = True
    model = json.loads((pathlib.Path(folder) / "tokenizer.json").read_text())
    others = [] if model["model"].get("byte_fallback") else variants(model)
    for name, m in [("as it is", model), *others]:
        made = scratch / "made"
        made.mkdir(exist_ok=True)
        (made / "tokenizer.json").write_text(json.dumps(m, ensure_ascii=False))
        tok = reference.Tokenizer.from_file(str(made / "tokenizer.json"))
        for what, text in texts if m is model else texts[2:]:
            (scratch / "text").write_bytes(text.encode())
            ok &= compare(f"{folder}, {name}, {what}", text,
                          ours("--special", made, scratch / "text"),
                          tok.encode(text, add_special_tokens=False).ids)
    return ok


def main():
    ok = True
    everything = "".join(chr(c) + "a " for c in range(0x110000) if not 0xD800 <= c < 0xE000)
    mixed = token_text.make(SEED, N_BYTES)
    texts = [("mixed", mixed), ("all code points", everything), ("added tokens", reference.salted(mixed, SEED))]
    with tempfile.TemporaryDirectory() as folder:
        sample = pathlib.Path(folder) / "text"
        for what, text in texts[:2]:
            sample.write_bytes(text.encode())
            for name in reference.SPLITS:
                ok &= compare(f"{what}, split {name}", text, ours("--split", name, sample),
                              reference.splits(name, text))
            for path in sys.argv[2:]:
                for mode, special in (("--ids", False), ("--special", True)):
                    if path.endswith(".gguf"):
                        ok &= compare(f"{what}, {mode}", text, ours(mode, path, sample),
                                      reference.from_gguf(path, special).encode(text).ids)
        for path in sys.argv[2:]:
            if not path.endswith(".gguf"):
                ok &= check_folder(path, texts, pathlib.Path(folder))
    sys.exit(not ok)


bench = sys.argv[1]
main()
