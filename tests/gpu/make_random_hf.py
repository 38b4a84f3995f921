#!/usr/bin/env python3
"""Makes a checkpoint of the exact shapes of a published model, with random weights: what speed
and memory need to be measured, without the model.

    make_random_hf.py llama-3.1-8b FOLDER [--tokenizer FOLDER] [--seed N] [--threads N] [--shard-bytes N] [--texts]

bf16 normal weights of sigma 0.02, gains near 1, biases of sigma 0.3, in shards of about 4 GB with their index.  The
tokenizer is copied from a folder, or is a made-up byte-level one of the full vocabulary, so that
the model can be served over HTTP and every id decodes.

Weights are drawn on the GPU if there is one, and written by several threads.  With --texts there are none:
`inferd serve --weights random` makes up its own, which is what a model of 141 GB wants.

Needs: torch, but with --texts.
"""
import argparse
import concurrent.futures
import json
import math
import os
import pathlib
import shutil
import struct
import time

try:
    import torch
except ImportError:
    torch = None

SHARD_BYTES = 4_200_000_000  # four for the 8B model
COMMON = dict(architectures=["LlamaForCausalLM"], model_type="llama", torch_dtype="bfloat16",
              hidden_act="silu", vocab_size=128256, rms_norm_eps=1e-5, rope_theta=500000.0,
              max_position_embeddings=131072, attention_bias=False, mlp_bias=False,
              bos_token_id=128000, eos_token_id=[128001, 128008, 128009])
SMALL = dict(torch_dtype="bfloat16", hidden_size=512, num_hidden_layers=6, intermediate_size=2048, vocab_size=4096,
             rms_norm_eps=1e-6, max_position_embeddings=32768, tie_word_embeddings=True,
             bos_token_id=4092, eos_token_id=[4093, 4094])


def bands(factor):
    return dict(rope_type="llama3", factor=factor, low_freq_factor=1.0, high_freq_factor=4.0,
                original_max_position_embeddings=8192)


MODELS = {
    "llama-3.1-8b": dict(COMMON, hidden_size=4096, num_hidden_layers=32, num_attention_heads=32,
                         num_key_value_heads=8, head_dim=128, intermediate_size=14336,
                         rope_scaling=bands(8.0), tie_word_embeddings=False),
    "llama-3.1-70b": dict(COMMON, hidden_size=8192, num_hidden_layers=80, num_attention_heads=64,
                          num_key_value_heads=8, head_dim=128, intermediate_size=28672,
                          rope_scaling=bands(8.0), tie_word_embeddings=False),
    "llama-3.2-1b": dict(COMMON, hidden_size=2048, num_hidden_layers=16, num_attention_heads=32,
                         num_key_value_heads=8, head_dim=64, intermediate_size=8192,
                         rope_scaling=bands(32.0), tie_word_embeddings=True),
    "small": dict(COMMON, hidden_size=512, num_hidden_layers=8, num_attention_heads=8,
                  num_key_value_heads=4, head_dim=64, intermediate_size=2048, vocab_size=4096,
                  rope_scaling=bands(8.0), tie_word_embeddings=False, bos_token_id=4092,
                  eos_token_id=[4093, 4094]),
    "tiny": dict(COMMON, hidden_size=128, num_hidden_layers=2, num_attention_heads=4,
                 num_key_value_heads=2, head_dim=64, intermediate_size=192, vocab_size=1024,
                 max_position_embeddings=2048, rope_scaling=bands(8.0), tie_word_embeddings=False,
                 bos_token_id=1020, eos_token_id=[1021, 1022]),
    # Of other families: biases of q, k and v; norms on both sides and of heads, windows, two bases.
    "qwen2-small": dict(SMALL, architectures=["Qwen2ForCausalLM"], model_type="qwen2", num_attention_heads=8,
                        num_key_value_heads=4, head_dim=64, hidden_act="silu", rope_theta=1000000.0,
                        use_sliding_window=False),
    "gemma3-small": dict(SMALL, architectures=["Gemma3ForCausalLM"], model_type="gemma3_text",
                         num_attention_heads=4, num_key_value_heads=2, head_dim=256,
                         hidden_activation="gelu_pytorch_tanh", query_pre_attn_scalar=256, sliding_window=128,
                         sliding_window_pattern=3, layer_types=2 * [*2 * ["sliding_attention"], "full_attention"],
                         rope_parameters={"full_attention": dict(rope_type="default", rope_theta=1000000.0),
                                          "sliding_attention": dict(rope_type="default", rope_theta=10000.0)}),
}


def shapes(c):
    """[(name, shape)] in the order of the layers."""
    h, ffn = c["hidden_size"], c["intermediate_size"]
    q, kv = c["num_attention_heads"] * c["head_dim"], c["num_key_value_heads"] * c["head_dim"]
    family = c["model_type"]
    yield "model.embed_tokens.weight", (c["vocab_size"], h)
    for i in range(c["num_hidden_layers"]):
        p = f"model.layers.{i}."
        yield p + "input_layernorm.weight", (h,)
        yield p + "self_attn.q_proj.weight", (q, h)
        yield p + "self_attn.k_proj.weight", (kv, h)
        yield p + "self_attn.v_proj.weight", (kv, h)
        yield p + "self_attn.o_proj.weight", (h, q)
        if family == "qwen2":
            for name, n in (("q", q), ("k", kv), ("v", kv)):
                yield p + f"self_attn.{name}_proj.bias", (n,)
        if family == "gemma3_text":
            for name in ("q_norm", "k_norm"):
                yield p + f"self_attn.{name}.weight", (c["head_dim"],)
            for side in ("pre", "post"):
                yield p + f"{side}_feedforward_layernorm.weight", (h,)
        yield p + "post_attention_layernorm.weight", (h,)
        yield p + "mlp.gate_proj.weight", (ffn, h)
        yield p + "mlp.up_proj.weight", (ffn, h)
        yield p + "mlp.down_proj.weight", (h, ffn)
    yield "model.norm.weight", (h,)
    if not c["tie_word_embeddings"]:
        yield "lm_head.weight", (c["vocab_size"], h)


def cut_into_shards(tensors, shard_bytes):
    shards, size = [[]], 0
    for name, shape in tensors:
        n = 2 * math.prod(shape)
        if size + n > shard_bytes and shards[-1]:
            shards, size = shards + [[]], 0
        shards[-1].append((name, shape))
        size += n
    return shards


def draw(name, shape, index, seed, device, gain):
    g = torch.Generator(device=device).manual_seed(seed * 1_000_003 + index)
    x = torch.empty(shape, dtype=torch.bfloat16, device=device)
    if "norm" in name:
        return x.uniform_(gain - 0.2, gain + 0.2, generator=g)
    if name.endswith("bias"):
        return x.normal_(0, 0.3, generator=g)
    return x.normal_(0, 0.02, generator=g)


def begin_shard(path, tensors):
    """Writes the header: [(offset in the file, name, shape)], bytes of the weights."""
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in tensors:
        n = 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + n]}
        at += n
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    first = 8 + len(text)
    return [(first + header[name]["data_offsets"][0], name, shape) for name, shape in tensors], at


def write_tensor(path, at, x):
    view = memoryview(x.cpu().view(torch.uint8).numpy().reshape(-1))
    file = os.open(path, os.O_WRONLY)
    while view:  # one write takes less than 2 GiB
        n = os.pwrite(file, view, at)
        view, at = view[n:], at + n
    os.close(file)


def write_weights(folder, config, seed, n_threads, shard_bytes):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    gain = 0 if config["model_type"] == "gemma3_text" else 1  # Gemma's are held less 1
    shards = cut_into_shards(list(shapes(config)), shard_bytes)
    names = ["model.safetensors"] if len(shards) == 1 else [
        f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    size, todo = 0, []
    for name, tensors in zip(names, shards):
        places, n = begin_shard(folder / name, tensors)
        todo += [(folder / name, *place) for place in places]
        size += n
    with concurrent.futures.ThreadPoolExecutor(n_threads) as pool:
        def write(i):
            path, at, name, shape = todo[i]
            write_tensor(path, at, draw(name, shape, i, seed, device, gain))
        list(pool.map(write, range(len(todo))))
    if len(shards) > 1:
        (folder / "model.safetensors.index.json").write_text(json.dumps({
            "metadata": {"total_size": size},
            "weight_map": {n: names[i] for i, s in enumerate(shards) for n, _ in s}}, indent=1))
    return size


def byte_alphabet():
    """One printable character for each byte, as GPT-2 has it."""
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in keep]
    return {b: chr(b) for b in keep} | {b: chr(256 + i) for i, b in enumerate(rest)}


def make_tokenizer(folder, config):
    """Bytes, then words of lower-case letters made by merges, then 256 special tokens (or as many
    as a small vocabulary has room for)."""
    n_special = min(256, config["vocab_size"] // 8)
    n_words = config["vocab_size"] - n_special
    tokens = list(byte_alphabet().values())
    merges, letters = [], [chr(c) for c in range(ord("a"), ord("z") + 1)]
    shorter = ["\u0120", *letters]
    while len(tokens) < n_words:
        longer = []
        for left in shorter:
            for letter in letters:
                if len(tokens) < n_words:
                    merges.append(f"{left} {letter}")
                    tokens.append(left + letter)
                    longer.append(left + letter)
        shorter = longer
    special = [f"<|reserved_{i}|>" for i in range(n_special)]
    for text, ids in (("<|begin_of_text|>", [config["bos_token_id"]]),
                      ("<|end_of_text|>", config["eos_token_id"][:1]),
                      ("<|eot_id|>", config["eos_token_id"][-1:])):
        special[ids[0] - n_words] = text
    split = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
             r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                  "use_regex": False}
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None,
        "added_tokens": [
            {"id": n_words + i, "content": t, "single_word": False, "lstrip": False,
             "rstrip": False, "normalized": False, "special": True} for i, t in enumerate(special)],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": split}, "behavior": "Isolated",
             "invert": False}, byte_level]},
        "post_processor": {"type": "TemplateProcessing", "single": [
            {"SpecialToken": {"id": "<|begin_of_text|>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}}], "pair": [
            {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<|begin_of_text|>": {
                "id": "<|begin_of_text|>", "ids": [config["bos_token_id"]],
                "tokens": ["<|begin_of_text|>"]}}},
        "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None,
                  "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False, "ignore_merges": True,
                  "vocab": {t: i for i, t in enumerate(tokens)}, "merges": merges}}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False))
    template = ("{{ bos_token }}{% for m in messages %}{{ '<|reserved_0|>' + m['role'] + '\n' }}"
                "{{ m['content'] + '<|eot_id|>' }}{% endfor %}"
                "{% if add_generation_prompt %}{{ '<|reserved_0|>assistant\n' }}{% endif %}")
    (folder / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|begin_of_text|>",
        "eos_token": "<|eot_id|>", "chat_template": template}, indent=1))


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    ap.add_argument("model", choices=sorted(MODELS))
    ap.add_argument("folder", type=pathlib.Path)
    ap.add_argument("--tokenizer", type=pathlib.Path, help="folder with a tokenizer.json")
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--threads", type=int, default=4)
    ap.add_argument("--shard-bytes", type=int, default=SHARD_BYTES)
    ap.add_argument("--texts", action="store_true", help="no weights: config.json and the tokenizer alone")
    args = ap.parse_args()
    config = MODELS[args.model]
    start = time.monotonic()
    args.folder.mkdir(parents=True, exist_ok=True)
    (args.folder / "config.json").write_text(json.dumps(config, indent=1))
    (args.folder / "generation_config.json").write_text(json.dumps(
        {"bos_token_id": config["bos_token_id"], "eos_token_id": config["eos_token_id"]}, indent=1))
    if args.tokenizer:
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            if (args.tokenizer / name).exists():
                shutil.copyfile(args.tokenizer / name, args.folder / name)
    else:
        make_tokenizer(args.folder, config)
    n = 0 if args.texts else write_weights(args.folder, config, args.seed, args.threads, args.shard_bytes)
    seconds = time.monotonic() - start
    print(f"{args.folder}: {n / 1e9:.2f} GB in {seconds:.1f} s")


if __name__ == "__main__":
    main()
