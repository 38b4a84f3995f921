#!/usr/bin/env python3
"""Reads what `inferd quantize` writes with the libraries whose formats it writes.

    check_quantize.py INFERD [--schemes NAME,...]

Random checkpoints (bf16, f16, f32; normal and heavy-tailed weights) are quantized by every scheme.
Then, bit for bit:

  * codes, scales and zero points are those that bitsandbytes and compressed-tensors make themselves
    of the same weights (not w8a16 and int8:threshold=0, whose codes are bitsandbytes' in the
    other's layout);
  * the weights that transformers has after loading the folder on the CPU, as float32, are scale *
    code, as kernels/scheme.h defines it, rounded to the type that the library rounds to;
  * files are the same for 1 and 3 threads;
  * of a GGUF file, weights and their names are as transformers reads them.

Needs: accelerate, bitsandbytes, compressed-tensors, gguf, numpy, safetensors, torch, transformers.
"""
import argparse
import filecmp
import json
import logging
import pathlib
import subprocess
import sys
import tempfile
import warnings

import bitsandbytes.functional as bnb
import gguf
import numpy as np
import torch
import transformers
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import quantize
from compressed_tensors.quantization.utils import calculate_qparams
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from safetensors import safe_open
from transformers import (
    AutoModelForCausalLM, CompressedTensorsConfig, LlamaConfig, LlamaForCausalLM)

SCHEMES = ["int8", "int8:threshold=0", "w8a16", "nf4", "nf4:nested", "fp4", "fp4:nested", "int4",
           "int4:group=32", "int4:asymmetric", "int4:asymmetric:group=64", "fp8"]


def make_model(folder, dtype, heavy):
    torch.manual_seed(5)
    config = LlamaConfig(
        hidden_size=256, intermediate_size=640, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=515, max_position_embeddings=128,
        tie_word_embeddings=False, bos_token_id=1, eos_token_id=2)
    model = LlamaForCausalLM(config)
    if heavy:
        rng = np.random.default_rng(6)
        with torch.no_grad():
            for name, p in model.named_parameters():
                if p.ndim == 2:
                    x = np.clip(rng.standard_cauchy(p.shape) * 0.02, -60, 60)
                    x[3] = 0
                    p.copy_(torch.from_numpy(x))
    model.to(dtype).save_pretrained(folder)


def run(inferd, *args):
    done = subprocess.run([inferd, "quantize", *map(str, args)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"inferd quantize {' '.join(map(str, args))}: {done.stderr}")


def read(folder):
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as f:
            tensors.update({name: f.get_tensor(name) for name in f.keys()})
    return tensors


def same(what, a, b):
    a, b = a.detach(), b.detach()
    if a.shape != b.shape or a.dtype != b.dtype:
        sys.exit(f"FAIL {what}: {a.shape} {a.dtype}, want {b.shape} {b.dtype}")
    raw = [t.contiguous().reshape(-1).view(torch.uint8).numpy() for t in (a, b)]
    if not np.array_equal(*raw):
        at = np.flatnonzero(raw[0] != raw[1])
        sys.exit(f"FAIL {what}: {len(at)} of {len(raw[0])} bytes differ, the first at {at[0]}")


# ---- as the libraries make them ----

def check_bnb_4(name, base, w, t, scheme):
    kind, nested = scheme.split(":")[0], "nested" in scheme
    packed, state = bnb.quantize_4bit(w, blocksize=64, quant_type=kind,
                                      compress_statistics=nested)
    same(f"{name} codes", t[base + ".weight"], packed)
    want = state.as_dict(packed=True)
    key = f"quant_state.bitsandbytes__{kind}"
    for part, tensor in want.items():
        if part != key:
            same(f"{name} {part}", t[f"{base}.weight.{part}"], tensor)
    texts = [json.loads(bytes(x.tolist())) for x in (t[f"{base}.weight.{key}"], want[key])]
    if texts[0].get("nested_offset") is not None:
        texts = [{**x, "nested_offset": np.float32(x["nested_offset"])} for x in texts]
    if texts[0] != texts[1]:
        sys.exit(f"FAIL {name} state: {texts}")


def check_bnb_8(name, base, w, t):
    codes, magnitudes, _ = bnb.int8_vectorwise_quant(w.clone())
    same(f"{name} codes", t[base + ".weight"], codes)
    same(f"{name} SCB", t[base + ".SCB"], magnitudes)


def check_channel(name, base, w, t, scheme):
    """int8 codes in compressed-tensors' layouts."""
    codes, magnitudes, _ = bnb.int8_vectorwise_quant(w.clone())
    same(f"{name} scale", t[base + ".weight_scale"], magnitudes[:, None] / 127)
    if scheme == "w8a16":
        same(f"{name} codes", t[base + ".weight_packed"], pack_to_int32(codes, 8))
    else:
        same(f"{name} codes", t[base + ".weight"], codes)


def check_observed(name, base, w, t, scheme):
    """int4 and fp8, by the min-max observer."""
    w = w.float()
    if scheme == "fp8":
        args = QuantizationArgs(num_bits=8, type="float", strategy="channel", symmetric=True)
        low, high = w.amin(-1, keepdim=True), w.amax(-1, keepdim=True)
    else:
        group = int(scheme.split("group=")[1]) if "group=" in scheme else 128
        args = QuantizationArgs(
            num_bits=4, type="int", strategy="group", group_size=group,
            symmetric="asymmetric" not in scheme, scale_dtype=torch.float16, zp_dtype=torch.int8)
        parts = w.unflatten(-1, (-1, group))
        low, high = parts.amin(-1), parts.amax(-1)
    scale, zero = calculate_qparams(low, high, args)
    scale = scale.float()
    if scheme == "fp8":
        same(f"{name} scale", t[base + ".weight_scale"], scale)
        same(f"{name} codes", t[base + ".weight"],
             quantize(w, scale, None, args, dtype=torch.float8_e4m3fn))
        return
    same(f"{name} scale", t[base + ".weight_scale"], scale.half())
    codes = quantize(w, scale, zero, args, dtype=torch.int8)
    same(f"{name} codes", t[base + ".weight_packed"], pack_to_int32(codes, 4))
    if "asymmetric" in scheme:
        same(f"{name} zeros", t[base + ".weight_zero_point"], pack_to_int32(zero, 4, packed_dim=0))


def check_codes(name, base, w, t, scheme):
    if scheme[:3] in ("nf4", "fp4"):
        check_bnb_4(name, base, w, t, scheme)
    elif scheme == "int8":
        check_bnb_8(name, base, w, t)
    elif scheme in ("w8a16", "int8:threshold=0"):
        check_channel(name, base, w, t, scheme)
    else:
        check_observed(name, base, w, t, scheme)


# ---- as the codes are defined ----

NF4 = bnb.get_4bit_type("nf4", device="cpu")
FP4 = bnb.get_4bit_type("fp4", device="cpu")


def nibbles(x, low_first):
    x = x.reshape(-1)
    pair = (x & 15, x >> 4) if low_first else (x >> 4, x & 15)
    return torch.stack(pair, -1).reshape(-1)


def defined_4(base, w, t, scheme):
    scales = t[base + ".weight.absmax"]
    if "nested" in scheme:
        state = next(v for k, v in t.items() if k.startswith(base + ".weight.quant_state"))
        offset = torch.tensor(json.loads(bytes(state.tolist()))["nested_offset"])
        unit = t[base + ".weight.nested_absmax"].repeat_interleave(256)[:len(scales)]
        scales = t[base + ".weight.nested_quant_map"][scales.int()] * unit + offset
    codes = nibbles(t[base + ".weight"], low_first=False).int()
    book = NF4 if scheme.startswith("nf4") else FP4
    return (scales[:, None] * book[codes].reshape(-1, 64)).reshape(w.shape)


def defined(base, w, t, scheme):
    if scheme[:3] in ("nf4", "fp4"):
        return defined_4(base, w, t, scheme)
    if scheme == "int8":
        return (t[base + ".SCB"] / 127)[:, None] * t[base + ".weight"].float()
    rounded_to = t[base + ".weight_scale"].dtype
    scale = t[base + ".weight_scale"].float()
    if base + ".weight_packed" not in t:
        return scale * t[base + ".weight"].float()
    raw = t[base + ".weight_packed"].view(torch.uint8)
    if scheme == "w8a16":
        return scale * (raw.float() - 128)
    zero = torch.full(scale.shape, 8.0)
    if "asymmetric" in scheme:
        z = t[base + ".weight_zero_point"].T.contiguous().view(torch.uint8)
        zero = nibbles(z, low_first=True).reshape(scale.shape[1], -1).T[:w.shape[0]].float()
    codes = nibbles(raw, low_first=True).float().reshape(*scale.shape, -1)
    return (scale[..., None] * (codes - zero[..., None])).reshape(w.shape).to(rounded_to)


def loaded_weight(module):
    if isinstance(module, Linear4bit):
        return bnb.dequantize_4bit(module.weight.data, module.weight.quant_state)
    if isinstance(module, Linear8bitLt):
        scb = module.weight.SCB if module.weight.SCB is not None else module.state.SCB
        return bnb.int8_vectorwise_dequant(module.weight.data, scb)
    return module.weight


def check_loaded(name, folder, t, plain, scheme, quantized):
    # As float32, because transformers rounds compressed-tensors' scales to the model's type; and
    # dequantized by it, because it finds no place for packed zero points (5.24 with 0.20) otherwise.
    packed = any(k.endswith(".weight_scale") for k in t)
    config = CompressedTensorsConfig(dequantize=True) if packed else None
    model = AutoModelForCausalLM.from_pretrained(
        folder, device_map="cpu", dtype=torch.float32,
        **({"quantization_config": config} if config else {}))
    modules = dict(model.named_modules())
    model(torch.tensor([[1, 2, 3]]))
    for base in quantized:
        got = loaded_weight(modules[base])
        want = defined(base, plain[base + ".weight"], t, scheme)
        if scheme == "int8":  # the library multiplies by 1 / 127, which is not exact
            torch.testing.assert_close(got, want, rtol=3e-7, atol=0)
        else:
            same(f"{name} {base} loaded", got.to(want.dtype).float(), want.to(got.dtype).to(want.dtype).float())
    for base, w in plain.items():
        module, _, leaf = base.rpartition(".")
        if module not in quantized:
            same(f"{name} {base} kept", getattr(modules[module], leaf).data.float(), w.float())


def check(inferd, plain_folder, out, scheme, name):
    run(inferd, plain_folder, out, "--scheme", scheme, "--threads", 3)
    again = out.with_name(out.name + "-1")
    run(inferd, plain_folder, again, "--scheme", scheme, "--threads", 1)
    for path in out.iterdir():
        if not filecmp.cmp(path, again / path.name, shallow=False):
            sys.exit(f"FAIL {name}: {path.name} depends on the number of threads")
    plain, t = read(plain_folder), read(out)
    quantized = [k[:-7] for k in plain if ".layers." in k and plain[k].ndim == 2]
    for base in quantized:
        check_codes(f"{name} {base}", base, plain[base + ".weight"], t, scheme)
    check_loaded(name, out, t, plain, scheme, quantized)
    print(f"ok    {name}: {len(quantized)} matrices", flush=True)


def check_names(inferd, plain_folder, tmp):
    """--skip and --head, as transformers sees them."""
    out = tmp / "skip"
    run(inferd, plain_folder, out, "--scheme", "int4", "--head", "int4", "--skip",
        "layers.1.self_attn,down_proj")
    t, model = read(out), AutoModelForCausalLM.from_pretrained(out, device_map="cpu")
    modules = dict(model.named_modules())
    for base in ("model.layers.1.self_attn.q_proj", "model.layers.0.mlp.down_proj"):
        assert base + ".weight" in t and not hasattr(modules[base], "quantization_scheme"), base
    for base in ("model.layers.0.self_attn.q_proj", "lm_head"):
        assert base + ".weight_packed" in t, base
    print("ok    head and skip")


def make_gguf(path, texts):
    """A random GGUF file, with the rows of q and k in the order that such files have."""
    rng = np.random.default_rng(7)
    config = LlamaConfig.from_pretrained(texts)
    hidden, kv = config.hidden_size, config.num_key_value_heads * config.head_dim
    w = gguf.GGUFWriter(path, "llama")
    w.add_context_length(config.max_position_embeddings)
    w.add_embedding_length(hidden)
    w.add_block_count(config.num_hidden_layers)
    w.add_feed_forward_length(config.intermediate_size)
    w.add_head_count(config.num_attention_heads)
    w.add_head_count_kv(config.num_key_value_heads)
    w.add_layer_norm_rms_eps(config.rms_norm_eps)
    w.add_rope_freq_base(config.rope_parameters["rope_theta"])
    w.add_vocab_size(config.vocab_size)

    def add(name, *shape, kind=gguf.GGMLQuantizationType.Q8_0):
        x = rng.normal(0, 0.02, shape).astype(np.float32)
        if len(shape) == 1:
            w.add_tensor(name, x)
        else:
            w.add_tensor(name, gguf.quantize(x, kind), raw_dtype=kind)

    add("token_embd.weight", config.vocab_size, hidden)
    add("output_norm.weight", hidden)
    add("output.weight", config.vocab_size, hidden)
    for i in range(config.num_hidden_layers):
        add(f"blk.{i}.attn_norm.weight", hidden)
        add(f"blk.{i}.attn_q.weight", hidden, hidden)
        add(f"blk.{i}.attn_k.weight", kv, hidden, kind=gguf.GGMLQuantizationType.F16)
        add(f"blk.{i}.attn_v.weight", kv, hidden, kind=gguf.GGMLQuantizationType.BF16)
        add(f"blk.{i}.attn_output.weight", hidden, hidden)
        add(f"blk.{i}.ffn_norm.weight", hidden)
        add(f"blk.{i}.ffn_gate.weight", config.intermediate_size, hidden)
        add(f"blk.{i}.ffn_up.weight", config.intermediate_size, hidden)
        add(f"blk.{i}.ffn_down.weight", hidden, config.intermediate_size)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def check_gguf(inferd, texts, tmp):
    """The weights of a GGUF file are those that transformers reads from it."""
    folder = tmp / "gguf"
    folder.mkdir()
    make_gguf(folder / "model.gguf", texts)
    run(inferd, folder / "model.gguf", tmp / "from-gguf", "--texts", texts, "--scheme", "nf4")
    t = read(tmp / "from-gguf")
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file="model.gguf",
                                                 dtype=torch.float32)
    for name, w in model.state_dict().items():
        base = name.removesuffix(".weight")
        if name + ".absmax" in t:
            packed, state = bnb.quantize_4bit(w, blocksize=64, quant_type="nf4")
            same(f"gguf {name}", t[name], packed)
            same(f"gguf {base} absmax", t[name + ".absmax"], state.absmax)
        else:
            same(f"gguf {name}", t[name].float(), w.half().float() if w.ndim == 2 else w)
    print("ok    from GGUF")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("inferd", type=pathlib.Path)
    parser.add_argument("--schemes", default=",".join(SCHEMES))
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)  # the mean of nested scales depends on it
    inferd = args.inferd.resolve()
    with tempfile.TemporaryDirectory() as tmp:
        tmp = pathlib.Path(tmp)
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            for heavy in (False, True):
                kind = f"{str(dtype)[6:]}-{'heavy' if heavy else 'normal'}"
                make_model(tmp / kind, dtype, heavy)
                for scheme in args.schemes.split(","):
                    name = f"{kind} {scheme}"
                    check(inferd, tmp / kind, tmp / name.replace(" ", "-"), scheme, name)
        check_names(inferd, tmp / "bfloat16-normal", tmp)
        check_gguf(inferd, tmp / "float16-normal", tmp)


if __name__ == "__main__":
    main()
