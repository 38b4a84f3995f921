"""Writes tests/golden/tokens/: a sample text, and for each piece of about 4 KiB of it how the
reference tokenizes and splits it, as one line "end count hash".

    python3 tests/golden/make_tokens.py MODEL.gguf      (needs tokenizers and gguf)
"""

import pathlib
import sys

import token_reference as reference
import token_text

HERE = pathlib.Path(__file__).parent / "tokens"
SAMPLE_BYTES, PIECE_BYTES, SEED = 150_000, 4096, 20


def hash_of(values):
    h = 0xCBF29CE484222325  # FNV-1a over the values as 32-bit words
    for v in values:
        h = (h ^ v) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return h


def write(name, pieces, values_of):
    at, lines = 0, []
    for piece in pieces:
        values = values_of(piece.decode())
        at += len(piece)
        lines.append(f"{at} {len(values)} {hash_of(values):016x}\n")
    (HERE / f"{name}.txt").write_text("".join(lines))


def main():
    HERE.mkdir(exist_ok=True)
    pieces = token_text.cut(token_text.make(SEED, SAMPLE_BYTES), PIECE_BYTES)
    (HERE / "sample.bin").write_bytes(b"".join(pieces))
    for special in (False, True):
        tok = reference.from_gguf(sys.argv[1], special)
        write("smollm2-special" if special else "smollm2", pieces, lambda s: tok.encode(s).ids)
    for name in reference.SPLITS:
        write(f"split-{name}", pieces, lambda s: reference.splits(name, s))


if __name__ == "__main__":
    main()
