/* qwen2.c - Qwen2 and 2.5: the Llama block with biases on q, k and v. */
#include "engine/arch/llama.h"

const struct arch arch_qwen2 = {
    .hf_name = "Qwen2ForCausalLM",
    .gguf_name = "qwen2",
    .config = llama_config,
    .tensors = {llama_products, llama_norms},
    .gguf_rope = ROPE_NEOX,
    .hf_rope = ROPE_NEOX,
    .act = ACT_SILU,
    .norm = NORM_RMS,
};
