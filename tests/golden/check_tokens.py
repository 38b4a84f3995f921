"""Compares tokens and cuts with the live reference, on more text than is worth keeping.

    python3 tests/golden/check_tokens.py BENCH_TOKENIZER [MODEL.gguf | FOLDER ...]

A folder has a tokenizer.json (fetch_tokenizers.sh brings some); from each, others are made that
have added tokens with every rule, normal form C, and each known pattern.
"""

import copy
import json
import pathlib
import random
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


ADDED = [  # content, special, rules
    ("<s1>", True, {}), ("<s2>", True, {"lstrip": True}), ("<s3>", True, {"rstrip": True}),
    ("<u1>", False, {}), ("<u1><u", False, {}), ("<w>", False, {"single_word": True}),
    ("qwörd", False, {"single_word": True, "lstrip": True}), ("<n1>", False, {"normalized": True}),
    ("n1><u", False, {"normalized": True}), ("<n2>", True, {"normalized": True, "rstrip": True}),
    ("\u00e9t\u00e9", False, {"normalized": True, "lstrip": True, "rstrip": True}),
    ("\u4eba\u5de5\u4e8c", False, {"single_word": True}), ("\u96d5\u523b\u4eba", False, {}),
]
MARKS = [chr(c) for c in (0x300, 0x301, 0x307, 0x323, 0x327, 0x345, 0x5b0, 0x3099, 0x1161, 0x11a8)]
PATTERNS = [reference.CL100K % "{1,3}", reference.CL100K % "",
            r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
            r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"]


def variants(model):
    """Tokenizers that the reference reads and that no file at hand is."""
    top = max([*model["model"]["vocab"].values(), *(t["id"] for t in model["added_tokens"])])
    for i, pattern in enumerate(PATTERNS):
        m = copy.deepcopy(model)
        m["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {"Regex": pattern}
        m["model"]["ignore_merges"] = i % 2 == 1
        m["model"]["merges"] = [
            x.split(" ") if isinstance(x, str) and i < 2 else x for x in m["model"]["merges"]]
        m["normalizer"] = {"type": "NFC"} if i % 3 == 0 else None
        for k, (text, special, rules) in enumerate(ADDED):
            m["added_tokens"].append({
                "id": top + 1 + k, "content": text, "special": special, "single_word": False,
                "lstrip": False, "rstrip": False, "normalized": False, **rules})
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


def salt(text):
    """The text with added tokens, spaces and marks strewn in."""
    r = random.Random(SEED)
    words, out = [t for t, _, _ in ADDED], []
    for i in range(0, len(text), 23):
        out += [text[i:i + 23], r.choice([" ", "", "", "  ", "\n", "_", "e"]), r.choice(words),
                r.choice([" ", "", "", "\t ", "x", "\u00b2", "\u200d"])]
        out += [r.choice(MARKS) for _ in range(r.choice([0, 0, 1, 2, 3, 40]))]
    return "".join(out)


def check_folder(folder, texts, scratch):
    ok = True
    model = json.loads((pathlib.Path(folder) / "tokenizer.json").read_text())
    for name, m in [("as it is", model), *variants(model)]:
        made = scratch / "made"
        made.mkdir(exist_ok=True)
        (made / "tokenizer.json").write_text(json.dumps(m, ensure_ascii=False))
        tok = reference.Tokenizer.from_file(str(made / "tokenizer.json"))
        for what, text in texts:
            (scratch / "text").write_bytes(text.encode())
            ok &= compare(f"{folder}, {name}, {what}", text,
                          ours("--special", made, scratch / "text"),
                          tok.encode(text, add_special_tokens=False).ids)
    return ok


def main():
    ok = True
    everything = "".join(chr(c) + "a " for c in range(0x110000) if not 0xD800 <= c < 0xE000)
    mixed = token_text.make(SEED, N_BYTES)
    texts = [("mixed", mixed), ("all code points", everything), ("added tokens", salt(mixed))]
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
