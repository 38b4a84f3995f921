#!/usr/bin/env python3
"""peer_quant.py - what bitsandbytes' schemes cost in quality, beside bench_quality's table of ours.

    peer_quant.py MODEL.gguf N_TOKENS

The weights of the file in float32 are the reference, run by transformers. Its linear layers (not the
output) are replaced by bitsandbytes' own, on the CPU, which compute in float32. A line for each:
perplexity and its change, mean KL divergence from the reference, how often the top token is the same,
over the tokens that bench_quality reads. Needs bitsandbytes, gguf, torch, transformers.
"""
import os
import sys

import bitsandbytes as bnb
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import make_logprobs  # noqa: E402


def int8(layer, threshold):
    new = bnb.nn.Linear8bitLt(layer.in_features, layer.out_features, bias=layer.bias is not None,
                              has_fp16_weights=False, threshold=threshold)
    new.load_state_dict(layer.state_dict())
    return new.to("cpu")


def four_bits(layer, kind, nested):
    """As Linear4bit computes in float32: the weights it dequantizes, in a plain product."""
    packed, state = quantize_4bit(layer.weight.data, blocksize=64, quant_type=kind,
                                  compress_statistics=nested)
    layer.weight.data = dequantize_4bit(packed, state).to(torch.float32).reshape(layer.weight.shape)
    return layer


VARIANTS = [
    ("int8", lambda l: int8(l, 6.0)),
    ("int8:threshold=0", lambda l: int8(l, 0.0)),
    ("nf4", lambda l: four_bits(l, "nf4", False)),
    ("nf4:nested", lambda l: four_bits(l, "nf4", True)),
    ("fp4", lambda l: four_bits(l, "fp4", False)),
]


def replace(module, make):
    for name, child in module.named_children():
        if isinstance(child, torch.nn.Linear) and name != "lm_head":
            setattr(module, name, make(child))
        else:
            replace(child, make)


def log_probs(model, ids):
    with torch.no_grad():
        return torch.log_softmax(model(torch.tensor([ids])).logits[0].float(), -1)


def nll(logs, ids):
    return -logs[:-1].gather(1, torch.tensor(ids[1:])[:, None]).double().mean()


def main():
    path, n = sys.argv[1], int(sys.argv[2])
    golden = os.path.join(os.path.dirname(os.path.abspath(__file__)), "ppl",
                          os.path.basename(path).replace(".gguf", ".txt"))
    ids = [int(x) for line in open(golden) if line.startswith("ids ") for x in line.split()[1:]][:n]
    load = lambda: make_logprobs.load(make_logprobs.GGUFReader(path)).eval()  # noqa: E731
    reference = log_probs(load(), ids)
    base = nll(reference, ids)
    print(f"{'bitsandbytes ' + bnb.__version__:24} {'perplexity':>10} {'change':>10} {'mean KL':>9} {'same top':>8}")
    print(f"{'float32':24} {base.exp():10.5f}")
    for name, make in VARIANTS:
        model = load()
        replace(model, make)
        model.eval()  # in training its 8-bit layers leave activations as they are
        logs = log_probs(model, ids)
        kl = same = 0.0
        for i in range(0, n - 1, 128):
            p, q = reference[i:min(i + 128, n - 1)].double(), logs[i:min(i + 128, n - 1)].double()
            kl += float((p.exp() * (p - q)).sum())
            same += int((p.argmax(-1) == q.argmax(-1)).sum())
        loss = nll(logs, ids)
        print(f"{name:24} {loss.exp():10.5f} {100 * torch.expm1(loss - base):+8.3f} % {kl / (n - 1):9.6f} "
              f"{100 * same / (n - 1):6.2f} %", flush=True)


if __name__ == "__main__":
    main()
