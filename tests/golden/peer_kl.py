#!/usr/bin/env python3
"""peer_kl.py - KL divergence of llama.cpp from transformers in float32, over the perplexity text.

    peer_kl.py MODEL.gguf N_TOKENS [NODE_FOLDER]

The figure to hold inferd's fast path against: engine_test_golden_logprobs prints that one over the
same tokens.  Needs torch, transformers, gguf, and node-llama-cpp in NODE_FOLDER.
"""
import os
import subprocess
import sys
import tempfile

import numpy as np
import torch

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import make_logprobs  # noqa: E402


def main():
    model_path, n = sys.argv[1], int(sys.argv[2])
    here = os.path.dirname(os.path.abspath(__file__))
    golden = os.path.join(here, "ppl", os.path.basename(model_path).replace(".gguf", ".txt"))
    ids = [int(x) for line in open(golden) if line.startswith("ids ") for x in line.split()[1:]][:n]
    with tempfile.NamedTemporaryFile() as out:
        env = dict(os.environ, NODE_PATH_PEER=sys.argv[3] if len(sys.argv) > 3 else os.getcwd())
        subprocess.run(["node", os.path.join(here, "peer_kl.mjs"), model_path, golden, str(n), out.name],
                       check=True, env=env)
        theirs = np.fromfile(out.name, dtype=np.float32).reshape(n, -1).astype(np.float64)
    model = make_logprobs.load(make_logprobs.GGUFReader(model_path))
    with torch.no_grad():
        ours = torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), -1).numpy()
    p = np.exp(ours)
    kl = (p * (ours - np.log(np.maximum(theirs, 1e-30)))).sum(-1)
    print(f"{n} tokens: KL of llama.cpp from float32: mean {kl.mean():.5f}, largest {kl.max():.4f}; "
          f"same top token {(ours.argmax(-1) == theirs.argmax(-1)).mean() * 100:.1f} %")


if __name__ == "__main__":
    main()
