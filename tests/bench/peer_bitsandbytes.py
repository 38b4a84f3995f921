"""peer_bitsandbytes.py - transformers' generate on a GPU with bitsandbytes' layers: a shape, random weights.

    peer_bitsandbytes.py tests/bench/shapes/llama-3.1-8b/config.json [--only none|int8|nf4|fp4]

As peer_transformers.py, whose model and timing it takes; each linear layer but the output becomes, as transformers
does it when it loads a checkpoint with a BitsAndBytesConfig, LLM.int8() with its threshold of 6, or 4 bits in blocks
of 64 with 16-bit computation: NF4, and FP4.  Eager, growing cache: what transformers does with it unasked.
"""

import argparse

import bitsandbytes as bnb
import torch

from peer_transformers import PROMPT, bench, make_model


def linear(scheme, old):
    """The layer with the same weights, quantized where they lie."""
    device, shape = old.weight.device, (old.in_features, old.out_features)
    if scheme == "int8":
        new = bnb.nn.Linear8bitLt(*shape, bias=False, has_fp16_weights=False, threshold=6.0, device="meta")
        new.weight = bnb.nn.Int8Params(old.weight.data, requires_grad=False, has_fp16_weights=False)
    else:
        new = bnb.nn.Linear4bit(*shape, bias=False, compute_dtype=torch.bfloat16, quant_type=scheme,
                                compress_statistics=False, device="meta")
        new.weight = bnb.nn.Params4bit(old.weight.data, requires_grad=False, quant_type=scheme,
                                       compress_statistics=False, module=new)
    return new.to(device)


def quantize(scheme, module):
    for name, child in module.named_children():
        if isinstance(child, torch.nn.Linear) and name != "lm_head":
            setattr(module, name, linear(scheme, child))
        else:
            quantize(scheme, child)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("config")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--device", default="cuda", help="cpu: to try this program")
    parser.add_argument("--only", choices=["none", "int8", "nf4", "fp4"])
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        print("skipped: no CUDA device")
        return
    name = torch.cuda.get_device_name() if args.device == "cuda" else args.device
    print(f"{name}, torch {torch.__version__}, bitsandbytes {bnb.__version__}")
    for scheme in [args.only] if args.only else ["none", "int8", "nf4"]:
        torch.manual_seed(1)
        model, config = make_model(args.config, args.device)
        ids = torch.randint(0, config.vocab_size, (1, PROMPT), device=args.device)
        with torch.inference_mode():
            if scheme != "none":
                quantize(scheme, model)
            first, token = bench(model, ids, args.tokens)
        taken = torch.cuda.memory_allocated() / 1e9 if args.device == "cuda" else 0
        print(f"bitsandbytes {scheme:<5} {PROMPT} in {args.tokens} out  first {first * 1e3:8.2f} ms  token "
              f"{token * 1e3:8.3f} ms  {1 / token:8.1f} tokens/s  {taken:.2f} GB", flush=True)
        del model


if __name__ == "__main__":
    main()
