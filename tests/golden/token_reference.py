"""The reference: Hugging Face tokenizers, over the vocabulary of a GGUF file or a tokenizer.json."""

import random
import unicodedata

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers
from tokenizers import pre_tokenizers as pre

CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def cl100k(digits):
    return pre.Sequence([
        pre.Split(Regex(CL100K % digits), "isolated"),
        pre.ByteLevel(add_prefix_space=False, use_regex=False),
    ])


SPLITS = {
    "gpt-2": pre.ByteLevel(add_prefix_space=False),
    "smollm": pre.Sequence([pre.Digits(True), pre.ByteLevel(add_prefix_space=False)]),
    "llama-bpe": cl100k("{1,3}"),
    "qwen2": cl100k(""),
}


def splits(name, text):
    """Ends of the pieces, in bytes."""
    ends, at = [], 0
    for piece, _ in SPLITS[name].pre_tokenize_str(text):
        at += len(piece)  # one character of the byte alphabet for each byte
        ends.append(at)
    return ends


def from_scores(fields, tokens, types, special):
    """As transformers converts SentencePiece: the file shows the spaces of user-defined tokens, and has
    lost their scores."""
    from transformers.tokenization_utils_base import generate_merges

    space = "\u2581"
    tokens = [t.replace(" ", space) if kind == 4 else t for t, kind in zip(tokens, types)]
    scores = fields["tokenizer.ggml.scores"].contents()
    scores = {t: 0.0 if kind == 4 else s for t, kind, s in zip(tokens, types, scores)}
    vocab = {t: i for i, t in enumerate(tokens)}
    tok = Tokenizer(models.BPE(vocab, generate_merges(vocab, scores), unk_token=tokens[3],
                               fuse_unk=True, byte_fallback=True))
    tok.normalizer = normalizers.Replace(" ", space)
    added = {3: True, 4: False} if special else {4: False}
    tok.add_tokens([AddedToken(t, normalized=False, special=added[kind])
                    for t, kind in zip(tokens, types) if kind in added])
    return tok


def from_gguf(path, special):
    import gguf

    fields = gguf.GGUFReader(path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    types = fields["tokenizer.ggml.token_type"].contents()
    if fields["tokenizer.ggml.model"].contents() == "llama":
        return from_scores(fields, tokens, types, special)
    merges = [tuple(m.split(" ")) for m in fields["tokenizer.ggml.merges"].contents()]
    tok = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, merges))
    tok.pre_tokenizer = SPLITS[fields["tokenizer.ggml.pre"].contents()]
    if special:
        tok.add_special_tokens(
            [AddedToken(t, normalized=False) for t, kind in zip(tokens, types) if kind == 3])
    return tok


# --- tokenizer.json ---

PATTERNS = [CL100K % "{1,3}", CL100K % "",
            r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
            r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"]

ADDED = [  # content, special, rules
    ("<s1>", True, {}), ("<s2>", True, {"lstrip": True}), ("<s3>", True, {"rstrip": True}),
    ("<u1>", False, {}), ("<u1><u", False, {}), ("<w>", False, {"single_word": True}),
    ("qwörd", False, {"single_word": True, "lstrip": True}), ("<n1>", False, {"normalized": True}),
    ("n1><u", False, {"normalized": True}), ("<n2>", True, {"normalized": True, "rstrip": True}),
    ("\u00e9t\u00e9", False, {"normalized": True, "lstrip": True, "rstrip": True}),
    ("\u4eba\u5de5\u4e8c", False, {"single_word": True}), ("\u96d5\u523b\u4eba", False, {}),
]
MARKS = [chr(c) for c in (0x300, 0x301, 0x307, 0x323, 0x327, 0x345, 0x5b0, 0x3099, 0x1161, 0x11a8)]


def added_tokens(first_id):
    """The entries of ADDED as a tokenizer.json has them."""
    rules = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return [{"id": first_id + i, "content": text, "special": special, **rules, **given}
            for i, (text, special, given) in enumerate(ADDED)]


def without_new_marks(text):
    """The reference normalizes by an older Unicode, whose marks are fewer."""
    nfc = normalizers.NFC().normalize_str
    new = {c for c in set(text) if 0 < unicodedata.combining(c) < 240
           and nfc("\u0345" + c) != unicodedata.normalize("NFC", "\u0345" + c)}
    return "".join(c for c in text if c not in new)


def salted(text, seed):
    """The text with added tokens, spaces and marks strewn in."""
    r = random.Random(seed)
    text = without_new_marks(text)
    words, out = [t for t, _, _ in ADDED], []
    for i in range(0, len(text), 23):
        out += [text[i:i + 23], r.choice([" ", "", "", "  ", "\n", "_", "e"]), r.choice(words),
                r.choice([" ", "", "", "\t ", "x", "\u00b2", "\u200d"])]
        out += [r.choice(MARKS) for _ in range(r.choice([0, 0, 1, 2, 3, 40]))]
    return "".join(out)
