"""The reference: Hugging Face tokenizers over the vocabulary of a GGUF file."""

from tokenizers import AddedToken, Regex, Tokenizer, models
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


def from_gguf(path, special):
    import gguf

    fields = gguf.GGUFReader(path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    types = fields["tokenizer.ggml.token_type"].contents()
    merges = [tuple(m.split(" ")) for m in fields["tokenizer.ggml.merges"].contents()]
    tok = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, merges))
    tok.pre_tokenizer = SPLITS[fields["tokenizer.ggml.pre"].contents()]
    if special:
        tok.add_special_tokens(
            [AddedToken(t, normalized=False) for t, kind in zip(tokens, types) if kind == 3])
    return tok
