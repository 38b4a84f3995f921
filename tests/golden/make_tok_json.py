"""Writes tests/golden/tok_json/: small tokenizer.json files, a sample with their added tokens in it,
and for each piece of the sample how the reference tokenizes it, as one line "end count hash".

    python3 tests/golden/make_tok_json.py      (needs tokenizers)

The vocabulary is trained here, on the text of token_text.py.
"""

import json
import pathlib

from tokenizers import Tokenizer, decoders, models, trainers
from tokenizers import pre_tokenizers as pre

import token_reference as reference
import token_text
from make_tokens import hash_of

HERE = pathlib.Path(__file__).parent / "tok_json"
SEED, TRAIN_BYTES, SAMPLE_BYTES, PIECE_BYTES, VOCAB = 11, 400_000, 20_000, 2048, 600


def train(split):
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = reference.SPLITS[split]
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator(token_text.make(SEED, TRAIN_BYTES).splitlines(), trainers.BpeTrainer(
        vocab_size=VOCAB, initial_alphabet=pre.ByteLevel.alphabet(), show_progress=False))
    return json.loads(tok.to_str())


def begin_with(text):
    return {"type": "TemplateProcessing", "pair": [], "special_tokens": {
        text: {"id": text, "ids": [VOCAB], "tokens": [text]}},
        "single": [{"SpecialToken": {"id": text, "type_id": 0}},
                   {"Sequence": {"id": "A", "type_id": 0}}]}


def make(split, whole, pairs, nfc, bos):
    json_ = train(split)
    json_["model"]["ignore_merges"] = whole
    json_["model"]["merges"] = [
        m if pairs else m if isinstance(m, str) else " ".join(m) for m in json_["model"]["merges"]]
    json_["normalizer"] = {"type": "NFC"} if nfc else None
    json_["added_tokens"] = reference.added_tokens(VOCAB)
    json_["post_processor"] = begin_with(reference.ADDED[0][0]) if bos else None
    return json_


def main():
    HERE.mkdir(exist_ok=True)
    text = reference.salted(token_text.make(SEED, SAMPLE_BYTES), SEED)
    pieces = token_text.cut(text, PIECE_BYTES)
    (HERE / "sample.bin").write_bytes(b"".join(pieces))
    for split, *how in (("llama-bpe", True, False, False, True), ("qwen2", False, True, True, False),
                        ("gpt-2", False, False, False, False), ("smollm", False, True, False, True)):
        folder = HERE / split
        folder.mkdir(exist_ok=True)
        (folder / "tokenizer.json").write_text(
            json.dumps(make(split, *how), ensure_ascii=False, indent=0, separators=(",", ":")))
        tok = Tokenizer.from_file(str(folder / "tokenizer.json"))
        at, lines = 0, []
        for piece in pieces:
            ids = tok.encode(piece.decode()).ids
            at += len(piece)
            lines.append(f"{at} {len(ids)} {hash_of(ids):016x}\n")
        (folder / "ids.txt").write_text("".join(lines))


if __name__ == "__main__":
    main()
