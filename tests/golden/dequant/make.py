"""Writes dequant.bin: random blocks of every GGUF format and their values by the gguf package.

    pip install gguf numpy && python tests/golden/dequant/make.py

Records, little-endian: u32 ggml type, u32 values, u32 bytes, the bytes, the values as f32.
Each format has some ordinary blocks, and blocks whose f16 fields are zero, subnormal,
negative zero and the largest number."""
import os

import numpy as np
from gguf import GGMLQuantizationType as T, GGML_QUANT_SIZES
from gguf.quants import dequantize

TYPES = "F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K".split()
HALVES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0],
          "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}
SPECIAL = np.array([0x0000, 0x8000, 0x0001, 0x83ff, 0x7bff], dtype=np.uint16)

rng = np.random.default_rng(20240611)
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "dequant.bin"), "wb") as out:
    for name in TYPES:
        qtype = T[name]
        block, size = GGML_QUANT_SIZES[qtype]
        if block == 1:
            values = rng.normal(size=64).astype(np.float32)
            raw = {"F32": values, "F16": values.astype(np.float16),
                   "BF16": (values.view(np.uint32) >> 16).astype(np.uint16)}[name].view(np.uint8)
            if name == "F16":
                raw = np.concatenate([raw, np.append(SPECIAL, np.uint16(0xfc00)).view(np.uint8)])
        else:
            n = 12 if block == 32 else 4
            blocks = rng.integers(0, 256, size=(n, size), dtype=np.uint8)
            for at in HALVES[name]:
                half = rng.normal(scale=0.05, size=n).astype(np.float16).view(np.uint16)
                half[-2:] = rng.choice(SPECIAL, 2)
                blocks[:, at:at + 2] = half.view(np.uint8).reshape(n, 2)
            raw = blocks.reshape(-1)
        width = len(raw) if block == 1 else size
        values = np.concatenate([dequantize(r, qtype).reshape(-1)
                                 for r in raw.reshape(-1, width)]).astype(np.float32)
        np.array([qtype.value, len(values), len(raw)], dtype=np.uint32).tofile(out)
        raw.tofile(out)
        values.tofile(out)
