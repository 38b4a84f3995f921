"""Writes the seeds of tests/fuzz/corpus/safetensors and tok_json.

    python3 tests/fuzz/make_hf_seeds.py
"""
import json
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


def safetensors(name, config, shapes, dtype="BF16", tail=b""):
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for key, shape in shapes.items():
        size = (4 if dtype == "F32" else 2) * shape[0] * (shape[1] if len(shape) == 2 else 1)
        header[key] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text, head = json.dumps(config).encode(), json.dumps(header).encode()
    (CORPUS / "safetensors").mkdir(exist_ok=True)
    (CORPUS / "safetensors" / name).write_bytes(
        struct.pack("<H", len(text)) + text + struct.pack("<Q", len(head)) + head
        + bytes(i * 37 % 256 for i in range(at)) + tail)


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
