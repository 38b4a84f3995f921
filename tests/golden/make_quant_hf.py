#!/usr/bin/env python3
"""Writes tests/golden/quant/: tiny random Llama checkpoints, quantized by the tools that people
use and in their formats, what those tools' own readers make of them, and the log-probabilities that
transformers computes from that in float32.

    make_quant_hf.py [--out FOLDER]

Each folder NAME has config.json and model.safetensors as the tool writes them, and
  rows.bin      int32 n, then n matrices by name: char name[64], int32 rows, cols, values, and for
                each row the FNV-1a hash of its float32 bytes (uint64), or, where `values` is 1,
                the floats
  logprobs.bin  int32 n_tokens, int32 vocab, int32 ids[n_tokens], float32 logprobs[n_tokens][vocab]

Needs: torch, transformers, accelerate, safetensors, numpy, bitsandbytes, compressed-tensors,
gptqmodel.  No GPU: CUDA_VISIBLE_DEVICES is emptied.
"""
import argparse
import json
import os
import pathlib
import shutil
import tempfile

os.environ["CUDA_VISIBLE_DEVICES"] = ""

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

import make_tiny_hf

VOCAB, N_TOKENS = 24, 16
BASE = dict(num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2, vocab_size=VOCAB,
            max_position_embeddings=64, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2,
            tie_word_embeddings=True)


def make_config(hidden):
    return LlamaConfig(hidden_size=hidden, intermediate_size=hidden, **BASE)


def make_model(hidden, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    model = LlamaForCausalLM(make_config(hidden)).eval()
    for name, p in model.named_parameters():
        x = torch.empty(p.shape).uniform_(-1, 1, generator=generator)
        if "norm" in name:
            x = 1.2 + 0.2 * x
        elif "embed" not in name:  # rows and columns of different sizes, and no mean of zero
            size = torch.empty(p.shape[0], 1).uniform_(0.5, 1.5, generator=generator)
            x = 1.7 * size * (x + 0.15) / p.shape[-1] ** 0.5
        p.data.copy_(x)
    return model.to(dtype), generator


def linears(model):
    return [(n, m) for n, m in model.named_modules()
            if isinstance(m, torch.nn.Linear) and ".layers." in n]


def save(folder, model, parts, quantization, dtype):
    """The model with the parts of its quantized modules in place of their weights."""
    tensors = {k: v for k, v in model.state_dict().items() if k != "lm_head.weight"}
    for name, module_parts in parts.items():
        del tensors[name + ".weight"]
        tensors.update({f"{name}.{k}": v.detach().contiguous() for k, v in module_parts.items()})
    config = {**json.loads(model.config.to_json_string()), "architectures": ["LlamaForCausalLM"],
              "dtype": str(dtype).removeprefix("torch."), "quantization_config": quantization}
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "model.safetensors",
              metadata={"format": "pt"})


# ---- bitsandbytes, through transformers ----

def bnb(folder, model, dtype, generator, **options):
    import bitsandbytes.functional as F
    with tempfile.TemporaryDirectory() as plain:
        model.save_pretrained(plain)
        quantized = LlamaForCausalLM.from_pretrained(
            plain, quantization_config=BitsAndBytesConfig(**options), device_map="cpu", dtype=dtype)
    quantized.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    out = {}
    for name, module in quantized.named_modules():
        if "Linear4bit" in type(module).__name__:
            out[name] = F.dequantize_4bit(module.weight.data, module.weight.quant_state)
        elif "Linear8bit" in type(module).__name__:
            out[name] = F.int8_vectorwise_dequant(module.weight.CB, module.weight.SCB)
    return out


# ---- GPTQ and AWQ: packed and read by gptqmodel ----

def min_max(weight, group, bits, symmetric, g_idx=None):
    """Scales and zero points [rows, groups], rounded to nearest: what a quantizer would find."""
    rows, cols = weight.shape
    groups = cols // group
    order = torch.arange(cols) if g_idx is None else torch.argsort(g_idx, stable=True)
    blocks = weight[:, order].reshape(rows, groups, group).float()
    low, high = blocks.amin(-1).clamp(max=0), blocks.amax(-1).clamp(min=0)
    top = 2 ** bits - 1
    if symmetric:
        scales = 2 * torch.maximum(-low, high) / top
        return scales, torch.full_like(scales, (top + 1) // 2)
    scales = (high - low) / top
    return scales, torch.round(-low / scales).clamp(0, top)


def gptq(folder, model, dtype, generator, bits, group_size, sym, desc_act, layout):
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    from gptqmodel.quantization import QuantizeConfig
    from gptqmodel.utils.model import convert_gptq_v2_to_v1_format_module
    parts, out = {}, {}
    for name, module in linears(model):
        rows, cols = module.weight.shape
        if not sym:
            module.weight.data[::5].abs_()  # zero points of 0, which gptq stores as -1
        group = cols if group_size == -1 else group_size
        g_idx = torch.arange(cols, dtype=torch.int32) // group
        if desc_act:
            g_idx = g_idx[torch.randperm(cols, generator=generator)]
        scales, zeros = min_max(module.weight, group, bits, sym, g_idx)
        packed = TorchLinear(bits=bits, group_size=group_size, sym=sym, desc_act=desc_act,
                             in_features=cols, out_features=rows)
        # As wide as the file has them, so that codes fit the scales.
        packed.pack_original(module.float(), scales.half().float(), zeros, g_idx)
        out[name] = packed.dequantize_weight().T
        if layout == "gptq":
            convert_gptq_v2_to_v1_format_module(
                packed, QuantizeConfig(bits=bits, group_size=group_size))
        parts[name] = {k: getattr(packed, k) for k in ("qweight", "qzeros", "scales", "g_idx")}
    save(folder, model.to(dtype), parts, {
        "quant_method": "gptq", "bits": bits, "group_size": group_size, "sym": sym,
        "desc_act": desc_act, "checkpoint_format": layout, "pack_dtype": "int32",
        "lm_head": False, "damp_percent": 0.05, "true_sequential": True}, dtype)
    return out


def awq(folder, model, dtype, generator, group_size):
    from gptqmodel.nn_modules.qlinear.torch_awq import AwqTorchLinear
    from gptqmodel.quantization.awq.utils.packing_utils import dequantize_gemm
    parts, out = {}, {}
    for name, module in linears(model):
        rows, cols = module.weight.shape
        scales, zeros = min_max(module.weight, group_size, 4, False)
        scales = scales.half().float()
        # pack() does not clamp, as AutoAWQ's does not: the weight is what the codes can hold.
        zeros_wide, scales_wide = (x.repeat_interleave(group_size, 1) for x in (zeros, scales))
        codes = torch.round(module.weight.float() / scales_wide + zeros_wide).clamp(0, 15)
        module.float().weight.data.copy_((codes - zeros_wide) * scales_wide)
        packed = AwqTorchLinear(bits=4, group_size=group_size, sym=False, desc_act=False,
                                in_features=cols, out_features=rows)
        packed.pack(module, scales.half(), zeros.half())
        parts[name] = {k: getattr(packed, k) for k in ("qweight", "qzeros", "scales")}
        out[name] = dequantize_gemm(packed.qweight, packed.qzeros, packed.scales, 4, group_size).T
    save(folder, model.to(dtype), parts, {
        "quant_method": "awq", "bits": 4, "group_size": group_size, "zero_point": True,
        "version": "gemm", "modules_to_not_convert": None}, dtype)
    return out


# ---- compressed-tensors ----

def compressed(folder, model, dtype, generator, form, weights, acts, ignore=("lm_head",)):
    from compressed_tensors.compressors.base import BaseCompressor
    from compressed_tensors.quantization import (QuantizationArgs, QuantizationConfig,
                                                 QuantizationScheme)
    from compressed_tensors.quantization.utils import calculate_qparams
    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**weights),
                                input_activations=QuantizationArgs(**acts) if acts else None,
                                format=form)
    compressor = BaseCompressor.get_value_from_registry(form)
    parts, out = {}, {}
    for name, module in linears(model):
        if name in ignore:
            continue
        weight = module.weight.data
        group = weights.get("group_size") or weight.shape[1]
        blocks = weight.reshape(weight.shape[0], -1, group)
        scale, zero = calculate_qparams(blocks.amin(-1), blocks.amax(-1), scheme.weights)
        if weights["strategy"] == "tensor":
            scale, zero = calculate_qparams(weight.amin(), weight.amax(), scheme.weights)
        state = {"weight": weight, "weight_scale": scale.to(dtype), "weight_zero_point": zero}
        parts[name] = compressor.compress(state, scheme)
        out[name] = compressor.decompress(parts[name], scheme)["weight"]
    config = QuantizationConfig(config_groups={"group_0": scheme}, format=form,
                                ignore=list(ignore), quantization_status="compressed")
    save(folder, model, parts, json.loads(config.model_dump_json()), dtype)
    return out


# ---- fp8 as vLLM and transformers name it ----

def fp8(folder, model, dtype, generator):
    from transformers.integrations.finegrained_fp8 import _dequantize_fp8_weight
    parts, out = {}, {}
    for name, module in linears(model):
        weight = module.weight.data.float()
        scale = weight.abs().max() / torch.finfo(torch.float8_e4m3fn).max
        codes = (weight / scale).to(torch.float8_e4m3fn)
        parts[name] = {"weight": codes, "weight_scale": scale}
        out[name] = _dequantize_fp8_weight(codes, scale, None, torch.float32)
    save(folder, model, parts, {"quant_method": "fp8", "activation_scheme": "dynamic",
                                "weight_block_size": None, "ignored_layers": ["lm_head"]}, dtype)
    return out


INT = dict(type="int", symmetric=True, dynamic=False)
TOKEN = dict(num_bits=8, strategy="token", symmetric=True, dynamic=True)
CASES = [  # name, hidden, dtype, how, options
    ("bnb-nf4-nested", 64, torch.bfloat16, bnb,
     dict(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)),
    ("bnb-fp4", 64, torch.float16, bnb,
     dict(load_in_4bit=True, bnb_4bit_quant_type="fp4",
          llm_int8_skip_modules=["lm_head", "model.layers.0.mlp.up_proj"])),
    ("bnb-int8", 32, torch.float16, bnb, dict(load_in_8bit=True, llm_int8_threshold=5.0)),
    ("gptq-int4", 64, torch.float16, gptq,
     dict(bits=4, group_size=32, sym=True, desc_act=False, layout="gptq")),
    ("gptq-int4-order", 64, torch.float16, gptq,
     dict(bits=4, group_size=32, sym=False, desc_act=True, layout="gptq_v2")),
    ("gptq-int8-zeros", 32, torch.float16, gptq,
     dict(bits=8, group_size=-1, sym=False, desc_act=False, layout="gptq")),
    ("gptq-int4-zeros", 32, torch.float16, gptq,
     dict(bits=4, group_size=32, sym=False, desc_act=False, layout="gptq")),
    ("awq-int4", 64, torch.float16, awq, dict(group_size=32)),
    ("ct-int4-zeros", 64, torch.bfloat16, compressed,
     dict(form="pack-quantized", acts=None, ignore=("lm_head", "model.layers.0.self_attn.o_proj"),
          weights={**INT, "num_bits": 4, "strategy": "group", "group_size": 32,
                   "symmetric": False})),
    ("ct-int8", 32, torch.bfloat16, compressed,
     dict(form="pack-quantized", acts=None,
          weights={**INT, "num_bits": 8, "strategy": "channel"})),
    ("ct-w8a8", 32, torch.bfloat16, compressed,
     dict(form="int-quantized", acts={**TOKEN, "type": "int"},
          weights={**INT, "num_bits": 8, "strategy": "channel"})),
    ("ct-fp8", 32, torch.bfloat16, compressed,
     dict(form="float-quantized", acts={**TOKEN, "type": "float"},
          weights={**INT, "num_bits": 8, "type": "float", "strategy": "channel"})),
    ("fp8-tensor", 32, torch.bfloat16, fp8, {}),
]


def fnv1a(bytes_):
    h = 0xcbf29ce484222325
    for b in bytes_:
        h = (h ^ b) * 0x100000001b3 & 0xffffffffffffffff
    return h


def write_rows(path, dequantized, values):
    """With `values`, the floats of the smallest matrix: where two ways to round are both right."""
    if values:
        smallest = min(dequantized, key=lambda k: dequantized[k].numel())
        dequantized = {smallest: dequantized[smallest]}
    with open(path, "wb") as out:
        np.array([len(dequantized)], np.int32).tofile(out)
        for name, rows in sorted(dequantized.items()):
            rows = rows.float().numpy() + np.float32(0)  # no negative zeros
            out.write(f"{name}.weight".encode().ljust(64, b"\0"))
            np.array([*rows.shape, values], np.int32).tofile(out)
            if values:
                rows.tofile(out)
            else:
                np.array([fnv1a(r.tobytes()) for r in rows], np.uint64).tofile(out)


@torch.no_grad()
def write_logprobs(folder, hidden, dequantized, generator):
    model = LlamaForCausalLM(make_config(hidden)).eval()
    tensors = {k: v.float() for k, v in load_file(folder / "model.safetensors").items()}
    tensors.update({f"{k}.weight": v.float() for k, v in dequantized.items()})
    own = {k: tensors[k] for k in model.state_dict() if k != "lm_head.weight"}
    model.load_state_dict(own, strict=False)
    model.tie_weights()
    ids = torch.randint(3, VOCAB, (N_TOKENS,), generator=generator)
    make_tiny_hf.write_logprobs(folder, model, ids)


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent / "quant")
    args = ap.parse_args()
    torch.set_num_threads(1)
    for seed, (name, hidden, dtype, how, options) in enumerate(CASES):
        model, generator = make_model(hidden, dtype, seed + 1)
        folder = args.out / name
        shutil.rmtree(folder, ignore_errors=True)
        with torch.no_grad():
            dequantized = how(folder, model, dtype, generator, **options)
        write_rows(folder / "rows.bin", dequantized, int(name == "bnb-int8"))
        write_logprobs(folder, hidden, dequantized, generator)
        print(name, sorted({str(v.dtype) for v in dequantized.values()}), len(dequantized))


if __name__ == "__main__":
    main()
