#!/usr/bin/env python3
"""Log-probabilities of a Hugging Face folder over HTTP, against transformers: how far from its float32,
and how far transformers itself is in bfloat16.

    hf_logits.py BIN-FOLDER MODEL [--dtypes bf16,f16,f32] [--device cuda] [--lengths 7,64,65,300,1000]

BIN-FOLDER has inferd and libinferd_cuda.so; MODEL is a folder of make_random_hf.py.  Prompts of random
ids go together in one request, which tells the 20 likeliest ids of each position, of the prompt and of
16 greedy tokens that follow; transformers gets the same ids.  Passes where the root mean square of our
errors is at most transformers', and the likeliest id is float32's, or within twice transformers' largest error
of it: a tie.  With f32 the root mean square is at most 1e-4, and ties are within 1e-3.  Needs torch, safetensors and transformers.
"""
import argparse
import gc
import json
import os
import pathlib
import random
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM

from daemon import Daemon
from make_random_hf import byte_alphabet

GENERATED, TOP = 16, 20
RMS_F32, TIE_F32 = 1e-4, 1e-3


def ids_by_text(folder):
    """Of each token, as /v1/completions writes it."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    byte = {c: b for b, c in byte_alphabet().items()}
    found = {t["content"]: t["id"] for t in tokenizer["added_tokens"]}
    for text, i in tokenizer["model"]["vocab"].items():
        raw = bytes(byte[c] for c in text)
        try:
            found[raw.decode()] = i
        except UnicodeDecodeError:
            found["bytes:" + "".join(f"\\x{b:02x}" for b in raw)] = i
    return found


def ask(daemon, prompts):
    """The choices of one request, in order of their prompts."""
    answer = daemon.ask("/v1/completions", {
        "model": daemon.model, "prompt": prompts, "max_tokens": GENERATED, "temperature": 0,
        "logprobs": TOP, "echo": True, "ignore_eos": True})
    return [c["logprobs"] for c in sorted(answer["choices"], key=lambda c: c["index"])]


def read_answers(daemon, folder, prompts):
    """For each prompt: its ids and those that followed, and [{id: log-probability}] from the second on."""
    ids, out = ids_by_text(folder), []
    for choice, prompt in zip(ask(daemon, prompts), prompts):
        all_ids = [ids[t] for t in choice["tokens"]]
        if all_ids[:len(prompt)] != prompt or len(all_ids) != len(prompt) + GENERATED:
            raise SystemExit("the answer does not echo its prompt")
        out.append((all_ids, [{ids[t]: v for t, v in top.items()} for top in choice["top_logprobs"][1:]]))
    return out


def load(folder, dtype, device):
    """transformers' model, every parameter from the folder's files; buffers as its own code makes them."""
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(
            AutoConfig.from_pretrained(folder), dtype=dtype, attn_implementation="sdpa").eval()
    missing = dict(model.named_parameters())
    index = folder / "model.safetensors.index.json"
    names = set(json.loads(index.read_text())["weight_map"].values()) if index.exists() else ["model.safetensors"]
    for name in names:
        with safe_open(folder / name, "pt", device=device) as f:
            for key in f.keys():
                missing.pop(key).data.copy_(f.get_tensor(key))
    if missing:
        raise SystemExit(f"not in the folder: {sorted(missing)[:3]}")
    return model


def look_up(logits, tops):
    """By position: log-probabilities of the ids asked for, the likeliest id, and its own."""
    out = []
    for row, top in zip(logits, tops):
        row = torch.log_softmax(row.double(), -1)
        best = int(row.argmax())
        out.append((row[torch.tensor(list(top), device=row.device)].tolist(), best, float(row[best])))
    return out


@torch.inference_mode()
def reference(folder, dtype, device, answers):
    """What transformers says to the same ids, over all positions; and with the last product in float32."""
    model, out, wide_head = load(folder, dtype, device), [], []
    head = model.get_output_embeddings().weight.float()
    for ids, tops in answers:
        x = torch.tensor([ids[:-1]], device=device)
        out += look_up(model(x).logits[0], tops)
        wide_head += look_up(model.model(x).last_hidden_state[0].float() @ head.T, tops)
    del model, head
    gc.collect()
    if device != "cpu":
        torch.cuda.empty_cache()
    return out, wide_head


class Error:
    """Of log-probabilities from float32's: sum of squares, largest."""

    def __init__(self):
        self.n = self.squares = self.largest = 0

    def add(self, got, want):
        for g, w in zip(got, want):
            self.n, self.squares = self.n + 1, self.squares + (g - w) ** 2
            self.largest = max(self.largest, abs(g - w))

    def rms(self):
        return (self.squares / self.n) ** 0.5

    def __str__(self):
        return f"{self.rms():.3g} (largest {self.largest:.3g})"


def compare(name, tops, wide, narrow, narrow_wide_head, is_f32):
    ours, theirs, wider = Error(), Error(), Error()
    for top, w, n, h in zip(tops, wide, narrow, narrow_wide_head):
        ours.add(top.values(), w[0])
        theirs.add(n[0], w[0])
        wider.add(h[0], w[0])
    gaps = []
    for top, (values, best, best_logprob) in zip(tops, wide):
        first = list(top).index(max(top, key=top.get))
        if list(top)[first] != best:
            gaps.append(best_logprob - values[first])
    wrong = sum(g > (TIE_F32 if is_f32 else 2 * theirs.largest) for g in gaps)
    same = sum(n[1] == w[1] for n, w in zip(narrow, wide))
    good = ours.rms() <= (RMS_F32 if is_f32 else theirs.rms()) and wrong == 0
    print(f"{name}: {ours.n} log-probabilities of {len(tops)} positions, error from float32: ours {ours}, "
          f"transformers' bf16 {theirs}, ratio {ours.rms() / theirs.rms():.3f}; with its head in float32 {wider}, ratio "
          f"{ours.rms() / wider.rms():.3f}. Likeliest id equal in {len(tops) - len(gaps)}, ties {len(gaps) - wrong} (gap "
          f"at most {max(gaps, default=0):.4f}), wrong {wrong}; transformers' bf16 equal in {same}"
          f"{'' if good else '  FAILED'}", flush=True)
    return good


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    ap.add_argument("folder")
    ap.add_argument("model", type=pathlib.Path)
    ap.add_argument("--dtypes", default="bf16,f16")
    ap.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    ap.add_argument("--lengths", default="7,64,65,300,1000")
    o = ap.parse_args()
    vocab = json.loads((o.model / "config.json").read_text())["vocab_size"]
    draw, good = random.Random(1), True
    prompts = [[draw.randrange(256, vocab * 7 // 8) for _ in range(int(n))] for n in o.lengths.split(",")]
    answers = []
    dtypes = o.dtypes.split(",") if o.device == "cuda" else ["exact"]
    for dtype in dtypes:
        how = ["--dtype", dtype, "--kv-memory", "1GiB"] if o.device == "cuda" else ["--cpu-precision", "exact"]
        with Daemon(o.folder, str(o.model), "--device", o.device, "--max-context", "2048", *how) as daemon:
            answers += read_answers(daemon, o.model, prompts)
    wide, _ = reference(o.model, torch.float32, o.device, answers)
    narrow, wide_head = reference(o.model, torch.bfloat16, o.device, answers)
    tops = [top for _, of_one in answers for top in of_one]
    n = len(tops) // len(dtypes)
    for i, dtype in enumerate(dtypes):
        part = slice(i * n, (i + 1) * n)
        good &= compare(f"{o.model.name} {dtype}", tops[part], wide[part], narrow[part], wide_head[part], dtype == "f32")
    return not good


if __name__ == "__main__":
    sys.exit(main())
