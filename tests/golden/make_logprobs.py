#!/usr/bin/env python3
"""Writes the reference log-probabilities that test_golden_logprobs.c compares the engine with.

The weights of a GGUF file are dequantized to float32 by the gguf package and run by transformers in
float32, on one sequence at a time and without a cache, so that nothing here shares a method with
the engine.

    make_logprobs.py MODEL.gguf [--steps N]

writes logprobs/MODEL.txt and ppl/MODEL.txt beside this script; the text is ppl/text.txt followed by
the LICENSE file at the root of the source.

Needs: gguf, numpy, tokenizers, torch, transformers.
"""
import argparse
import hashlib
import pathlib

import numpy as np
import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM

import token_reference

TOP = 20
TIE = 4e-3  # twice the tolerance of the test: closer than this, either token may come first

PROMPTS = [
    ("capital", "The capital of France is"),
    ("story", "Once upon a time, in a village at the edge of the forest, there lived"),
    ("definition", "Photosynthesis is the process by which"),
    ("list", "Three things to pack for a mountain hike:\n1."),
    ("dialogue", "\"Where were you last night?\" asked the inspector. \"I was"),
    ("arithmetic", "12 + 30 = 42\n15 + 27 = 42\n18 + 9 ="),
    ("date", "The meeting was moved from Monday, 3 March 2025 to"),
    ("python", "def fibonacci(n):\n    \"\"\"Return the n-th Fibonacci number.\"\"\"\n    "),
    ("c", "#include <stdio.h>\n\nint main(int argc, char **argv)\n{\n    for (int i = 0; i <"),
    ("sql", "SELECT name, COUNT(*) FROM orders WHERE year = 2024 GROUP BY"),
    ("json", "{\"name\": \"Ada\", \"born\": 1815, \"fields\": [\"mathematics\","),
    ("html", "<!DOCTYPE html>\n<html>\n<head>\n  <title>"),
    ("shell", "$ git status\nOn branch main\nYour branch is up to date with"),
    ("chinese", "今天天气很好，我们一起去"),
    ("chinese_2", "人工智能是计算机科学的一个分支，"),
    ("japanese", "昔々あるところに、おじいさんと"),
    ("japanese_2", "東京は日本の首都で、"),
    ("korean", "안녕하세요, 저는"),
    ("russian", "Москва является столицей"),
    ("german", "Der schnelle braune Fuchs springt über"),
    ("french", "Il était une fois une petite fille qui"),
    ("emoji", "🎉🎂 Happy birthday! 🎁🥳"),
    ("emoji_zwj", "👩‍👩‍👧‍👦 family, 🏳️‍🌈 flag, 👍🏽 thumbs"),
    ("spaces", "a  b   c    d     e\t\tf\n\n\n  g"),
    ("one_token", "The"),
    ("chat", "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging "
             "Face<|im_end|>\n<|im_start|>user\nWhy is the sky blue?<|im_end|>\n"
             "<|im_start|>assistant\n"),
    ("chat_2", "<|im_start|>user\nWrite a haiku about winter.<|im_end|>\n<|im_start|>assistant\n"),
]


def field(reader, key, default=None):
    f = reader.fields.get(key)
    return default if f is None else f.contents()


def begin(reader):
    """The tokens that go before every text."""
    if not field(reader, "tokenizer.ggml.add_bos_token", False):
        return []
    return [field(reader, "tokenizer.ggml.bos_token_id")]


def unpermute(w, n_heads):
    """GGUF orders the rows of q and k for rotation of neighbours; transformers rotates halves."""
    rows, cols = w.shape
    return w.reshape(n_heads, rows // n_heads // 2, 2, cols).swapaxes(1, 2).reshape(rows, cols)


def sizes_of(get, reader):
    embed = next(t for t in reader.tensors if t.name == "token_embd.weight")
    return dict(
        hidden_size=get("embedding_length"), num_hidden_layers=get("block_count"),
        num_attention_heads=get("attention.head_count"),
        num_key_value_heads=get("attention.head_count_kv"),
        intermediate_size=get("feed_forward_length"), vocab_size=int(embed.shape[1]),
        rms_norm_eps=get("attention.layer_norm_rms_epsilon"),
        max_position_embeddings=get("context_length"),
        tie_word_embeddings="output.weight" not in {t.name for t in reader.tensors})


def llama_of(get, reader):
    theta = float(get("rope.freq_base", 10000.0))
    return LlamaForCausalLM(LlamaConfig(
        **sizes_of(get, reader), rope_theta=theta, attention_bias=False,
        rope_parameters={"rope_type": "default", "rope_theta": theta}))


def gemma3_of(get, reader):
    """Every sixth layer sees all; the scale of attention is that of all sizes but 27B."""
    assert get("rope.scaling.type") is None
    width = get("attention.key_length")
    return Gemma3ForCausalLM(Gemma3TextConfig(
        **sizes_of(get, reader), head_dim=width, query_pre_attn_scalar=width,
        sliding_window=get("attention.sliding_window"), sliding_window_pattern=6,
        rope_theta=float(get("rope.freq_base")), rope_local_base_freq=10000.0))


PRODUCTS = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
            "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
            "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
FAMILIES = {  # maker, names in a layer, what the file added to gains, order of q and k
    "llama": (llama_of, {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}, 0,
              unpermute),
    "gemma3": (gemma3_of, {
        "attn_norm": "input_layernorm", "attn_q_norm": "self_attn.q_norm",
        "attn_k_norm": "self_attn.k_norm", "post_attention_norm": "post_attention_layernorm",
        "ffn_norm": "pre_feedforward_layernorm", "post_ffw_norm": "post_feedforward_layernorm"}, 1,
               lambda w, n_heads: w),
}


def load(reader):
    family = field(reader, "general.architecture")
    make, norms, gain, order = FAMILIES[family]
    model = make(lambda key, default=None: field(reader, f"{family}.{key}", default), reader)
    cfg = model.config
    layer = {**PRODUCTS, **norms}
    top = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
    state = {}
    for t in reader.tensors:
        w = dequantize(t.data, t.tensor_type).astype(np.float32)
        w = w.reshape([int(n) for n in reversed(t.shape)])
        if "norm" in t.name:
            w = w - np.float32(gain)
        parts = t.name.split(".")
        if parts[0] != "blk":
            state[top[parts[0]] + ".weight"] = torch.from_numpy(w)
            continue
        if parts[2] == "attn_q":
            w = order(w, cfg.num_attention_heads)
        if parts[2] == "attn_k":
            w = order(w, cfg.num_key_value_heads)
        state[f"model.layers.{parts[1]}.{layer[parts[2]]}.weight"] = torch.from_numpy(w.copy())
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    model.tie_weights()
    check_rope(model)
    return model.float().eval()


def check_rope(model):
    """The bases asked for are those in use."""
    cfg, rope = model.config, model.model.rotary_emb
    dim = getattr(cfg, "head_dim", None) or cfg.hidden_size // cfg.num_attention_heads
    types = {"": cfg.rope_parameters}
    if "full_attention" in cfg.rope_parameters:
        types = {f"{name}_": p for name, p in cfg.rope_parameters.items()}
    for prefix, p in types.items():
        want = p["rope_theta"] ** (-np.arange(0, dim, 2) / dim)
        assert np.allclose(getattr(rope, prefix + "inv_freq").numpy(), want, rtol=1e-5)


@torch.no_grad()
def logprobs(model, ids, first):
    """Log-softmax rows for positions first.. of ids, in float64 over float32 logits."""
    hidden = model.model(torch.tensor([ids]), use_cache=False).last_hidden_state[0, first:]
    return torch.log_softmax(model.lm_head(hidden).double(), -1)


@torch.no_grad()
def write_prompt(out, model, ids, name, steps):
    n_prompt = len(ids)
    for _ in range(steps):
        ids.append(int(logprobs(model, ids, len(ids) - 1)[0].argmax()))
    rows = logprobs(model, ids, 0)
    out.write(f"prompt {name} {n_prompt}\n")
    out.write("ids " + " ".join(map(str, ids[:n_prompt])) + "\n")
    scores = [float(rows[i, ids[i + 1]]) for i in range(n_prompt - 1)]
    out.write("scores" + "".join(f" {s:.5f}" for s in scores) + "\n")
    for i in range(n_prompt - 1, len(ids) - 1):
        top = torch.topk(rows[i], TOP)
        tie = "tie" if float(top.values[0] - top.values[1]) < TIE else "-"
        pairs = " ".join(f"{int(t)}:{float(v):.5f}" for v, t in zip(top.values, top.indices))
        out.write(f"step {ids[i + 1]} {tie} {pairs}\n")


@torch.no_grad()
def write_perplexity(out, model, ids):
    hidden = model.model(torch.tensor([ids]), use_cache=False).last_hidden_state[0]
    nll = 0.0
    for i in range(0, len(ids) - 1, 128):
        end = min(i + 128, len(ids) - 1)
        rows = torch.log_softmax(model.lm_head(hidden[i:end]).double(), -1)
        nll -= float(rows.gather(1, torch.tensor(ids[i + 1:end + 1])[:, None]).sum())
    mean = nll / (len(ids) - 1)
    out.write(f"tokens {len(ids)}\nnll {mean:.7f}\nperplexity {np.exp(mean):.6f}\n")
    out.write("ids " + " ".join(map(str, ids)) + "\n")


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("model", type=pathlib.Path)
    ap.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent)
    ap.add_argument("--threads", type=int, default=1)
    ap.add_argument("--steps", type=int, default=24)
    args = ap.parse_args()
    torch.set_num_threads(args.threads)
    reader = GGUFReader(args.model)
    model, tok = load(reader), token_reference.from_gguf(args.model, True)
    encode = lambda text: begin(reader) + tok.encode(text, add_special_tokens=False).ids
    digest = hashlib.sha256(args.model.read_bytes()).hexdigest()
    head = f"# made by make_logprobs.py\nmodel {args.model.name} {digest}\n"
    root = args.out.parent.parent
    text = (args.out / "ppl" / "text.txt").read_text() + (root / "LICENSE").read_text()
    with open(args.out / "ppl" / f"{args.model.stem}.txt", "w") as out:
        out.write(head)
        write_perplexity(out, model, encode(text))
    with open(args.out / "logprobs" / f"{args.model.stem}.txt", "w") as out:
        out.write(head + f"steps {args.steps}\n")
        for name, prompt in PROMPTS:
            write_prompt(out, model, encode(prompt), name, args.steps)


if __name__ == "__main__":
    main()
