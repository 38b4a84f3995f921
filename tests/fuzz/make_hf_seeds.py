"""Writes the seeds of tests/fuzz/corpus/safetensors and tok_json.

    python3 tests/fuzz/make_hf_seeds.py
"""
import json
import math
import pathlib
import struct

CORPUS = pathlib.Path(__file__).parent / "corpus"
CONFIG = {"architectures": ["LlamaForCausalLM"], "hidden_size": 8, "num_hidden_layers": 1,
          "num_attention_heads": 1, "intermediate_size": 8, "max_position_embeddings": 8,
          "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
          "rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1,
                           "high_freq_factor": 4, "original_max_position_embeddings": 4}}
LAYER = {"input_layernorm": [8], "self_attn.q_proj": [8, 8], "self_attn.k_proj": [8, 8],
         "self_attn.v_proj": [8, 8], "self_attn.o_proj": [8, 8], "post_attention_layernorm": [8],
         "mlp.gate_proj": [8, 8], "mlp.up_proj": [8, 8], "mlp.down_proj": [8, 8]}


BYTES = {"F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I64": 8}


def safetensors(name, config, shapes, dtype="BF16", tail=b""):
    """shapes: of plain tensors; or (dtype, shape, bytes, or None for some) of a part."""
    header, at, data = {"__metadata__": {"format": "pt"}}, 0, b""
    for key, shape in shapes.items():
        kind, shape, content = shape if isinstance(shape, tuple) else (dtype, shape, None)
        size = math.prod(shape) * (2 if kind == "F64" else BYTES.get(kind, 1))
        content = content or bytes((at + i) * 37 % 256 for i in range(size))
        header[key] = {"dtype": kind, "shape": shape, "data_offsets": [at, at + len(content)]}
        at, data = at + len(content), data + content
    text, head = json.dumps(config).encode(), json.dumps(header).encode()
    (CORPUS / "safetensors").mkdir(exist_ok=True)
    (CORPUS / "safetensors" / name).write_bytes(
        struct.pack("<H", len(text)) + text + struct.pack("<Q", len(head)) + head + data + tail)


def quantized(name, rules, parts, width=8):
    """The model whose q_proj is quantized, of 8 rows; `width` columns, for groups of 32."""
    base = "model.layers.0.self_attn.q_proj"
    other = {"input_layernorm", "post_attention_layernorm"}
    turned = {"self_attn.o_proj", "mlp.down_proj"}
    layer = {k: [width] if k in other else [width, 8] if k in turned else [8, width]
             for k in LAYER}
    plain = {"model.embed_tokens.weight": [16, width], "model.norm.weight": [width],
             **{f"model.layers.0.{k}.weight": v for k, v in layer.items()}}
    del plain[base + ".weight"]
    safetensors("quant-" + name,
                {**CONFIG, "hidden_size": width, "head_dim": 8, "quantization_config": rules},
                {**plain, **{base + k: v for k, v in parts.items()}})


def tok_json(name, **changes):
    alphabet = [chr(c) for c in range(33, 127)] + ["\u0120", "\u010a"]
    base = {
        "version": "1.0", "normalizer": None,
        "added_tokens": [
            {"id": 100, "content": "<s>", "special": True, "lstrip": True, "normalized": False},
            {"id": 101, "content": "<u>", "special": False, "rstrip": True, "single_word": True}],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        "post_processor": {"type": "TemplateProcessing", "single": [
            {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]},
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "ignore_merges": False,
                  "vocab": {t: i for i, t in enumerate([*alphabet, "ab"])},
                  "merges": ["a b"]}}
    (CORPUS / "tok_json").mkdir(exist_ok=True)
    (CORPUS / "tok_json" / name).write_text(json.dumps({**base, **changes}))


weights = {"model.embed_tokens.weight": [16, 8], "model.norm.weight": [8],
           **{f"model.layers.0.{k}.weight": v for k, v in LAYER.items()}}
safetensors("bound", CONFIG, weights)
safetensors("f32", CONFIG, weights, "F32")
safetensors("f64", CONFIG, weights, "F64")
safetensors("extra", CONFIG, {**weights, "model.layers.0.self_attn.rotary_emb.inv_freq": [4]})
safetensors("unknown", CONFIG, {**weights, "x": [4]})
safetensors("tail", CONFIG, weights, tail=b"12345678")
safetensors("quantized", {**CONFIG, "quantization_config": {"quant_method": "gptq"}}, weights)
safetensors("empty", {}, {})

ONES = struct.pack("<e", 1)
STATE = ('{"quant_type":"nf4","blocksize":32,"dtype":"bfloat16","shape":[8,64],'
         '"nested_blocksize":256,"nested_dtype":"float32","nested_offset":0.5}').encode()
NF4 = [-1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
       -0.18477343022823334, -0.09105003625154495, 0, 0.07958029955625534, 0.16093020141124725,
       0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
       0.7229568362236023, 1]
WEIGHTS = {"type": "int", "strategy": "channel"}


def group(bits, form, acts=None, **changes):
    return {"quant_method": "compressed-tensors", "format": form, "ignore": ["lm_head"],
            "config_groups": {"a": {"targets": ["Linear"], "input_activations": acts,
                                    "weights": {**WEIGHTS, "num_bits": bits, **changes}}}}


quantized("nf4", {"quant_method": "bitsandbytes", "load_in_4bit": True,
                  "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
          {".weight": ("U8", [256, 1], None), ".weight.absmax": ("U8", [16], None),
           ".weight.quant_map": ("F32", [16], struct.pack("<16f", *NF4)),
           ".weight.nested_absmax": ("F32", [1], struct.pack("<f", 2)),
           ".weight.nested_quant_map": ("F32", [256], struct.pack("<256f", *range(256))),
           ".weight.quant_state.bitsandbytes__nf4": ("U8", [len(STATE)], STATE)}, 64)
quantized("int8", {"quant_method": "bitsandbytes", "load_in_8bit": True},
          {".weight": ("I8", [8, 8], None), ".SCB": ("F32", [8], struct.pack("<8f", *range(8))),
           ".weight_format": ("U8", [], b"\0")})
quantized("gptq", {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": True},
          {".qweight": ("I32", [8, 8], None), ".qzeros": ("I32", [2, 1], None),
           ".scales": ("F16", [2, 8], ONES * 16),
           ".g_idx": ("I32", [64], struct.pack("<64i", *[i % 2 for i in range(64)]))}, 64)
quantized("gptq8", {"quant_method": "gptq", "bits": 8, "group_size": -1,
                    "checkpoint_format": "gptq_v2"},
          {".qweight": ("I32", [2, 8], None), ".qzeros": ("I32", [1, 2], None),
           ".scales": ("F16", [1, 8], ONES * 8)})
quantized("awq", {"quant_method": "awq", "bits": 4, "group_size": -1, "version": "gemm"},
          {".qweight": ("I32", [8, 1], None), ".qzeros": ("I32", [1, 1], None),
           ".scales": ("F16", [1, 8], ONES * 8)})
quantized("pack", group(4, "pack-quantized", strategy="group", group_size=32, symmetric=False),
          {".weight_packed": ("I32", [8, 8], None), ".weight_scale": ("F16", [8, 2], ONES * 16),
           ".weight_zero_point": ("I32", [1, 2], None),
           ".weight_shape": ("I64", [2], struct.pack("<2q", 8, 64)),
           ".weight_g_idx": ("I32", [64], struct.pack("<64i", *[i % 2 for i in range(64)]))}, 64)
quantized("w8a8", group(8, "int-quantized", {"num_bits": 8, "type": "int", "strategy": "token",
                                              "dynamic": True}),
          {".weight": ("I8", [8, 8], None), ".weight_scale": ("F16", [8, 1], ONES * 8)})
quantized("fp8", {"quant_method": "fp8", "activation_scheme": "dynamic"},
          {".weight": ("F8_E4M3", [8, 8], None), ".weight_scale": ("F32", [], b"\0\0\0\x3e")})
split = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
tok_json("plain")
tok_json("nfc", normalizer={"type": "Sequence", "normalizers": [{"type": "NFC"}]})
tok_json("pairs", model={"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2},
                         "merges": [["a", "b"]], "ignore_merges": True})
tok_json("split", pre_tokenizer={"type": "Sequence", "pretokenizers": [
    {"type": "Split", "pattern": {"Regex": split}, "behavior": "Isolated", "invert": False},
    {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}]})
tok_json("bert", normalizer={"type": "BertNormalizer"})
tok_json("far", added_tokens=[{"id": 70000, "content": "z", "special": True}])
