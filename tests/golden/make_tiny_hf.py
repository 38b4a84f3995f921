#!/usr/bin/env python3
"""Writes tests/golden/hf/: tiny random checkpoints as transformers saves them, and for each the
log-probabilities that transformers computes from it in float32.

    make_tiny_hf.py [--out FOLDER] [NAME ...]

Each folder NAME has config.json, its weights in safetensors, and logprobs.bin: int32 n_tokens,
int32 vocab, int32 ids[n_tokens], float32 logprobs[n_tokens][vocab].

Needs: numpy, safetensors, torch, transformers.
"""
import argparse
import json
import pathlib
import shutil

import numpy as np
import torch
from transformers import (Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM,
                          Qwen2Config, Qwen2ForCausalLM)

VOCAB, N_TOKENS = 160, 48
BASE = dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            intermediate_size=96, vocab_size=VOCAB, max_position_embeddings=256,
            rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2)
BANDS = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
         "original_max_position_embeddings": 32, "rope_theta": 500000.0}
LINEAR = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}
# A window shorter than the prompt, two bases, and a scale of attention that is not the heads'.
GEMMA3 = dict(head_dim=16, intermediate_size=64, query_pre_attn_scalar=23, sliding_window=7)

CASES = [  # name, family, what differs, dtype, bytes of a shard (None = one file)
    ("tied-f32", "llama", dict(tie_word_embeddings=True), torch.float32, None),
    ("bands-bf16", "llama", dict(num_hidden_layers=3, rope_parameters=BANDS), torch.bfloat16, None),
    ("biases-f16", "llama", dict(attention_bias=True, mlp_bias=True, rope_parameters=LINEAR),
     torch.float16, None),
    ("sharded-bf16", "llama", dict(head_dim=32, num_key_value_heads=1),
     torch.bfloat16, 60_000),
    ("qwen2-bf16", "qwen2", dict(tie_word_embeddings=True), torch.bfloat16, None),
    ("gemma3-bf16", "gemma3", dict(num_hidden_layers=6, sliding_window_pattern=3, **GEMMA3),
     torch.bfloat16, None),
    ("gemma3-old-f16", "gemma3", dict(
        num_hidden_layers=4, num_key_value_heads=1, sliding_window_pattern=2, rope_theta=50000.0,
        rope_local_base_freq=500.0, rope_scaling={"rope_type": "linear", "factor": 8.0}, **GEMMA3),
     torch.float16, None),
]


def randomize(model, generator):
    """Of a size that keeps activations near 1, gains and biases among them."""
    for name, p in model.named_parameters():
        x = torch.empty(p.shape).uniform_(-1, 1, generator=generator)
        if "norm" in name:
            x = (0.2 if model.config.model_type == "gemma3_text" else 1.2) + 0.2 * x
        elif name.endswith("bias"):
            x = 0.3 * x
        elif "embed" not in name:
            x = 1.7 * x / p.shape[-1] ** 0.5
        p.data.copy_(x)


def older_form(folder):
    """As transformers before version 5 wrote positions, so that both forms are read."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    by_type = "full_attention" in rope
    if by_type:
        config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = rope["full_attention"]
        types = config.pop("layer_types")
        config["sliding_window_pattern"] = types.index("full_attention") + 1
        config.pop("tie_word_embeddings")
    config["rope_theta"] = rope.pop("rope_theta")
    if not by_type: # where types differ, transformers never took the older name
        rope["type"] = rope.pop("rope_type")
    config["rope_scaling"] = None if rope == {"type": "default"} else rope
    path.write_text(json.dumps(config, indent=2) + "\n")


@torch.no_grad()
def write_logprobs(folder, model, ids):
    logprobs = torch.log_softmax(model(ids[None]).logits[0].double(), -1).float().numpy()
    with open(folder / "logprobs.bin", "wb") as out:
        np.array(logprobs.shape, np.int32).tofile(out)
        ids.numpy().astype(np.int32).tofile(out)
        logprobs.astype(np.float32).tofile(out)


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("names", nargs="*", metavar="NAME")
    ap.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent / "hf")
    args = ap.parse_args()
    torch.set_num_threads(1)
    families = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM),
                "gemma3": (Gemma3TextConfig, Gemma3ForCausalLM)}
    for seed, (name, family, changes, dtype, shard_bytes) in enumerate(CASES):
        if args.names and name not in args.names:
            continue
        make_config, make_model = families[family]
        generator = torch.Generator().manual_seed(seed + 1)
        model = make_model(make_config(**{**BASE, **changes})).eval()
        randomize(model, generator)
        folder = args.out / name
        shutil.rmtree(folder, ignore_errors=True)
        model.to(dtype).save_pretrained(folder, max_shard_size=shard_bytes or "1GB")
        (folder / "generation_config.json").unlink(missing_ok=True)
        if name in ("biases-f16", "tied-f32", "gemma3-old-f16"):
            older_form(folder)
        # Reloaded in float32, so that the reference has the rounded weights and exact arithmetic.
        ids = torch.randint(3, VOCAB, (N_TOKENS,), generator=generator)
        write_logprobs(folder, make_model.from_pretrained(folder, dtype=torch.float32).eval(), ids)


if __name__ == "__main__":
    main()
