"""Writes tests/golden/tok_json/: small tokenizer.json files, a sample with their added tokens in it,
and for each piece of the sample how the reference tokenizes it, as one line "end count hash".

    python3 tests/golden/make_tok_json.py      (needs tokenizers and transformers)

The vocabulary is trained here, on the text of token_text.py.
"""

import json
import pathlib

from tokenizers import Tokenizer, decoders, models, normalizers, trainers
from tokenizers import pre_tokenizers as pre
from transformers.tokenization_utils_base import generate_merges

import token_reference as reference
import token_text
from make_tokens import hash_of

HERE = pathlib.Path(__file__).parent / "tok_json"
SPACE = "\u2581"
RUNS = ["\t", "\n", "\n\n", "\n\n\n", SPACE * 2, SPACE * 3, SPACE * 4]
SEED, TRAIN_BYTES, SAMPLE_BYTES, PIECE_BYTES = 11, 400_000, 20_000, 2048
VOCAB, CHARS_VOCAB = 600, 700


def train(split):
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = reference.SPLITS[split]
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator(token_text.make(SEED, TRAIN_BYTES).splitlines(), trainers.BpeTrainer(
        vocab_size=VOCAB, initial_alphabet=pre.ByteLevel.alphabet(), show_progress=False))
    return json.loads(tok.to_str())


def train_chars():
    """Over characters, with byte tokens first; a token's score falls with its id, and the merges follow
    from the scores as where such a vocabulary comes from SentencePiece.  Runs of spaces and line ends
    are user-defined tokens."""
    tok = Tokenizer(models.BPE())
    tok.normalizer = normalizers.Replace(" ", SPACE)
    lines = token_text.make(SEED, TRAIN_BYTES).splitlines()
    tok.pre_tokenizer = pre.Split(SPACE, "merged_with_next")
    tok.train_from_iterator(lines, trainers.BpeTrainer(
        vocab_size=CHARS_VOCAB, limit_alphabet=200, show_progress=False))
    tok.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(),
                                     decoders.Fuse()])
    json_ = json.loads(tok.to_str())
    learned = sorted(json_["model"]["vocab"], key=json_["model"]["vocab"].get)
    learned = [t for t in learned if t not in RUNS]
    tokens = [f"<0x{i:02X}>" for i in range(256)] + RUNS + learned
    vocab = {t: i for i, t in enumerate(tokens)}
    scores = {t: 0.0 if t in RUNS else -float(i) for t, i in vocab.items() if i >= 256}
    rules = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    json_["model"].update(vocab=vocab, merges=generate_merges(vocab, scores), byte_fallback=True,
                          fuse_unk=True, unk_token="<s1>")
    json_["pre_tokenizer"] = {"type": "Split", "pattern": {"String": " "},
                              "behavior": "MergedWithPrevious", "invert": False}
    json_["added_tokens"] = [{"id": vocab[t], "content": t, "special": False, **rules} for t in RUNS]
    # Beside tokens that are spaces, the reference gives a stripped space twice.
    added = [t for t in reference.added_tokens(0)
             if not (t["normalized"] or t["lstrip"] or t["rstrip"])]
    json_["added_tokens"] += [{**t, "id": len(vocab) + i} for i, t in enumerate(added)]
    return json_


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
    made = {"whole": train_chars()}
    for split, *how in (("llama-bpe", True, False, False, True), ("qwen2", False, True, True, False),
                        ("gpt-2", False, False, False, False), ("smollm", False, True, False, True)):
        made[split] = make(split, *how)
    for split, json_ in made.items():
        folder = HERE / split
        folder.mkdir(exist_ok=True)
        (folder / "tokenizer.json").write_text(
            json.dumps(json_, ensure_ascii=False, indent=0, separators=(",", ":")))
        tok = Tokenizer.from_file(str(folder / "tokenizer.json"))
        at, lines = 0, []
        for piece in pieces:
            ids = tok.encode(piece.decode()).ids
            at += len(piece)
            lines.append(f"{at} {len(ids)} {hash_of(ids):016x}\n")
        (folder / "ids.txt").write_text("".join(lines))


if __name__ == "__main__":
    main()
