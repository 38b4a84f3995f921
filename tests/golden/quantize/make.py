#!/usr/bin/env python3
"""Writes quantize.bin: random matrices, and the codes and scales that bitsandbytes (INT8, NF4, FP4,
nested scales) and compressed-tensors (INT4, FP8) make of them on the CPU.

    make.py [--out FILE]

Records, little endian: int32 type (1 = f16, 2 = bf16), rows, cols; the values, uint16; then for
each of SCHEMES the codes, one a byte, the scales, float32, and for int4:asymmetric the zero points,
one a byte.  The last record is for nested scales, and has after its values: float32 offset, the
codes of the scales, one a byte, float32 absmax of each block of 256, and the scales they stand for.

Needs: bitsandbytes, compressed-tensors, numpy, torch.
"""
import argparse
import pathlib

import bitsandbytes.functional as bnb
import numpy as np
import torch
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import quantize
from compressed_tensors.quantization.utils import calculate_qparams

SCHEMES = ["int8", "nf4", "fp4", "int4", "int4:asymmetric", "fp8"]
ROWS, COLS, GROUP = 4, 256, 128


def normal(rng, rows, cols):
    return rng.normal(0, 0.02, (rows, cols))


def heavy(rng, rows, cols):
    return rng.standard_cauchy((rows, cols)) * 0.02


def with_zeros(rng, rows, cols):
    x = rng.normal(0, 0.5, (rows, cols))
    x[0] = 0
    x[1, :64] = 0
    x[2, 128:] = np.abs(x[2, 128:])
    x[rows - 1] = -np.abs(x[rows - 1])
    return x


def tiny(rng, rows, cols):
    """Down to denormals of the type and of float."""
    return rng.normal(0, 1, (rows, cols)) * np.array([[1e-40], [1e-36], [1e-7], [3e-5]])


def ties(rng, rows, cols):
    """Halves and quarters of the largest, where rounding has to choose."""
    x = rng.integers(-60, 61, (rows, cols)) / 4.0
    x[:, ::64] = [[15], [-15], [127 / 8], [7.5]]
    return x


def unpack(packed, n):
    b = packed.reshape(-1).numpy()
    return np.stack([b >> 4, b & 15], 1).reshape(-1)[:n].astype(np.uint8)


def of_bitsandbytes(scheme, w):
    if scheme == "int8":
        codes, scales, _ = bnb.int8_vectorwise_quant(w.clone())
        return codes.numpy().astype(np.int16) + 128, scales.numpy() / np.float32(127), None
    packed, state = bnb.quantize_4bit(w, blocksize=64, quant_type=scheme)
    return unpack(packed, w.numel()), state.absmax.numpy(), None


def of_compressed_tensors(scheme, w):
    w = w.float()
    if scheme == "fp8":
        args = QuantizationArgs(num_bits=8, type="float", strategy="channel", symmetric=True)
        parts = w
    else:
        args = QuantizationArgs(
            num_bits=4, type="int", strategy="group", group_size=GROUP,
            symmetric="asymmetric" not in scheme, scale_dtype=torch.float16, zp_dtype=torch.int8)
        parts = w.unflatten(-1, (-1, GROUP))
    keep = scheme == "fp8"
    scale, zero = calculate_qparams(
        parts.amin(-1, keepdim=keep), parts.amax(-1, keepdim=keep), args)
    scale = scale.float()
    if scheme == "fp8":
        codes = quantize(w, scale, None, args, dtype=torch.float8_e4m3fn).view(torch.uint8)
        return codes.numpy(), scale.numpy(), None
    codes = quantize(w, scale, zero, args, dtype=torch.int8).numpy() + 8
    return codes, scale.numpy(), zero.numpy() + 8 if "asymmetric" in scheme else None


def write_head(f, w):
    kind = 1 if w.dtype == torch.float16 else 2
    f.write(np.array([kind, *w.shape], "<i4").tobytes())
    f.write(w.view(torch.int16).numpy().astype("<i2").tobytes())


def write_record(f, w):
    write_head(f, w)
    for scheme in SCHEMES:
        of = of_bitsandbytes if scheme in ("int8", "nf4", "fp4") else of_compressed_tensors
        codes, scales, zeros = of(scheme, w)
        f.write(codes.astype(np.uint8).tobytes())
        f.write(scales.astype("<f4").tobytes())
        if zeros is not None:
            f.write(zeros.astype(np.uint8).tobytes())


def write_nested(f, w):
    _, state = bnb.quantize_4bit(w, blocksize=64, quant_type="nf4", compress_statistics=True)
    scales = bnb.dequantize_blockwise(state.absmax, state.state2) + state.offset
    write_head(f, w)
    f.write(np.float32(state.offset.item()).tobytes())
    f.write(state.absmax.numpy().tobytes())
    f.write(state.state2.absmax.numpy().astype("<f4").tobytes())
    f.write(scales.numpy().astype("<f4").tobytes())


def main():
    here = pathlib.Path(__file__).parent
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", default=here / "quantize.bin", type=pathlib.Path)
    args = parser.parse_args()
    torch.set_num_threads(1)  # the mean of nested scales depends on it
    rng = np.random.default_rng(20)
    with open(args.out, "wb") as f:
        for make in (normal, heavy, with_zeros, tiny, ties):
            x = make(rng, ROWS, COLS)
            for dtype in (torch.float16, torch.bfloat16):
                write_record(f, torch.from_numpy(x).to(dtype))
        write_nested(f, torch.from_numpy(heavy(rng, 60, 320)).to(torch.bfloat16))


main()
