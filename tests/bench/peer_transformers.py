"""peer_transformers.py - transformers' generate on a GPU: the same shape, random bf16 weights.

    peer_transformers.py tests/bench/shapes/llama-3.1-8b/config.json [--tokens N] [--only MODE]

Batch 1, 128 tokens in, greedy, nothing ends it but its length.  Two modes: "eager" (SDPA, growing
cache) and "compiled" (static cache, the forward compiled with reduce-overhead: CUDA graphs).  A
token's time is that of a run without that of its first token; the least of three runs counts.
"""

import argparse
import os
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig

PROMPT = 128
RUNS = 3


def make_model(path, device):
    """On the device from the start: no weight ever lies in another memory."""
    config = LlamaConfig.from_json_file(path)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 1:
                p.normal_(1.0, 0.02)
            else:
                p.normal_(0.0, 0.02)
    return model.eval(), config


def synchronize():
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def timed_s(call):
    synchronize()
    start = time.perf_counter()
    call()
    synchronize()
    return time.perf_counter() - start


def bench(model, ids, n_tokens, **how):
    def generate(n):
        model.generation_config = GenerationConfig(
            do_sample=False, max_new_tokens=n, min_new_tokens=n, eos_token_id=None, pad_token_id=0, **how
        )
        out = model.generate(ids, attention_mask=torch.ones_like(ids))
        assert out.shape[1] == PROMPT + n, out.shape

    for n in (n_tokens, 1, n_tokens):  # compiles, records
        generate(n)
    first = min(timed_s(lambda: generate(1)) for _ in range(RUNS))
    whole = min(timed_s(lambda: generate(n_tokens)) for _ in range(RUNS))
    return first, (whole - first) / (n_tokens - 1)


def report(mode, n_tokens, times):
    first, token = times
    print(
        f"transformers {mode:<9} {PROMPT} in {n_tokens} out  first {first * 1e3:8.2f} ms  "
        f"token {token * 1e3:8.3f} ms  {1 / token:8.1f} tokens/s",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("config")
    parser.add_argument("--tokens", type=int, default=512, help="of the compiled mode")
    parser.add_argument("--eager-tokens", type=int, default=128)
    parser.add_argument("--device", default="cuda", help="cpu: to try this program")
    parser.add_argument("--only", choices=["eager", "compiled"])
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        print("skipped: no CUDA device")
        return
    name = torch.cuda.get_device_name() if args.device == "cuda" else args.device
    print(f"{name}, torch {torch.__version__}, transformers {transformers.__version__}")
    torch.manual_seed(1)
    model, config = make_model(args.config, args.device)
    ids = torch.randint(0, config.vocab_size, (1, PROMPT), device=args.device)
    with torch.inference_mode():
        if args.only != "compiled":
            report("eager", args.eager_tokens, bench(model, ids, args.eager_tokens))
        if args.only != "eager":
            # generate compiles the forward itself when the cache is static: mode reduce-overhead.
            report("compiled", args.tokens, bench(model, ids, args.tokens, cache_implementation="static"))


if __name__ == "__main__":
    main()
