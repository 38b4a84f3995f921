/* llama.c - Llama and what copies it: pre-norm blocks with RMS norm, rotary positions, grouped
 * query heads, a gated SiLU feed-forward and, in some checkpoints, biases. */
#include "engine/arch/llama.h"
#include "engine/model.h"

#define FIELD(name) offsetof(struct model_config, name)

const struct config_rule llama_config[] = {
    {"hidden_size", "embedding_length", F_INT, FIELD(hidden), REQUIRED, 0, 8, 65536},
    {"num_hidden_layers", "block_count", F_INT, FIELD(n_layers), REQUIRED, 0, 1, LAYERS_MAX},
    {"num_attention_heads", "attention.head_count", F_INT, FIELD(n_heads), REQUIRED, 0, 1, 1024},
    {"num_key_value_heads", "attention.head_count_kv", F_INT, FIELD(n_kv_heads), OPTIONAL, 0, 1,
     1024},
    {"head_dim", "attention.key_length", F_INT, FIELD(head_dim), OPTIONAL, 0, 8, 512},
    {NULL, "attention.value_length", F_INT, FIELD(value_dim), OPTIONAL, 0, 8, 512},
    {"intermediate_size", "feed_forward_length", F_INT, FIELD(ffn), REQUIRED, 0, 8, 1 << 20},
    {"max_position_embeddings", "context_length", F_INT, FIELD(context), REQUIRED, 0, 1, 1 << 24},
    {"vocab_size", "vocab_size", F_INT, FIELD(vocab), OPTIONAL, 0, 1, 1 << 24},
    {NULL, "rope.dimension_count", F_INT, FIELD(rope_dims), OPTIONAL, 0, 2, 512},
    {"rope_theta", "rope.freq_base", F_FLOAT, FIELD(rope_theta), OPTIONAL, 10000, 1, 1e12},
    {"rms_norm_eps", "attention.layer_norm_rms_epsilon", F_FLOAT, FIELD(norm_eps), REQUIRED, 0,
     1e-12, 0.1},
    {"num_local_experts", "expert_count", F_INT, FIELD(n_experts), OPTIONAL, 0, 0, 0},
    {0},
};

const struct tensor_rule llama_products[] = {
    {"model.embed_tokens.weight", "token_embd.weight", W_EMBED, DIM_VOCAB, DIM_HIDDEN, SHARD_OUT,
     REQUIRED},
    {"lm_head.weight", "output.weight", W_LM_HEAD, DIM_VOCAB, DIM_HIDDEN, SHARD_OUT, OPTIONAL},
    {NULL, "rope_freqs.weight", W_ROPE_FACTORS, DIM_ONE, DIM_ROPE_HALF, SHARD_NONE, OPTIONAL},

    {LAYER "self_attn.q_proj.weight", "blk.%d.attn_q.weight", W_Q, DIM_Q, DIM_HIDDEN, SHARD_OUT,
     REQUIRED},
    {LAYER "self_attn.k_proj.weight", "blk.%d.attn_k.weight", W_K, DIM_KV, DIM_HIDDEN, SHARD_OUT,
     REQUIRED},
    {LAYER "self_attn.v_proj.weight", "blk.%d.attn_v.weight", W_V, DIM_KV, DIM_HIDDEN, SHARD_OUT,
     REQUIRED},
    {LAYER "self_attn.o_proj.weight", "blk.%d.attn_output.weight", W_O, DIM_HIDDEN, DIM_Q, SHARD_IN,
     REQUIRED},
    {LAYER "self_attn.q_proj.bias", "blk.%d.attn_q.bias", W_Q_BIAS, DIM_ONE, DIM_Q, SHARD_OUT,
     OPTIONAL},
    {LAYER "self_attn.k_proj.bias", "blk.%d.attn_k.bias", W_K_BIAS, DIM_ONE, DIM_KV, SHARD_OUT,
     OPTIONAL},
    {LAYER "self_attn.v_proj.bias", "blk.%d.attn_v.bias", W_V_BIAS, DIM_ONE, DIM_KV, SHARD_OUT,
     OPTIONAL},
    {LAYER "self_attn.o_proj.bias", "blk.%d.attn_output.bias", W_O_BIAS, DIM_ONE, DIM_HIDDEN,
     SHARD_FIRST, OPTIONAL},

    {LAYER "mlp.gate_proj.weight", "blk.%d.ffn_gate.weight", W_GATE, DIM_FFN, DIM_HIDDEN, SHARD_OUT,
     REQUIRED},
    {LAYER "mlp.up_proj.weight", "blk.%d.ffn_up.weight", W_UP, DIM_FFN, DIM_HIDDEN, SHARD_OUT,
     REQUIRED},
    {LAYER "mlp.down_proj.weight", "blk.%d.ffn_down.weight", W_DOWN, DIM_HIDDEN, DIM_FFN, SHARD_IN,
     REQUIRED},
    {LAYER "mlp.gate_proj.bias", "blk.%d.ffn_gate.bias", W_GATE_BIAS, DIM_ONE, DIM_FFN, SHARD_OUT,
     OPTIONAL},
    {LAYER "mlp.up_proj.bias", "blk.%d.ffn_up.bias", W_UP_BIAS, DIM_ONE, DIM_FFN, SHARD_OUT,
     OPTIONAL},
    {LAYER "mlp.down_proj.bias", "blk.%d.ffn_down.bias", W_DOWN_BIAS, DIM_ONE, DIM_HIDDEN,
     SHARD_FIRST, OPTIONAL},
    {0},
};

const struct tensor_rule llama_norms[] = {
    {"model.norm.weight", "output_norm.weight", W_FINAL_NORM, DIM_ONE, DIM_HIDDEN, SHARD_NONE,
     REQUIRED},
    {LAYER "input_layernorm.weight", "blk.%d.attn_norm.weight", W_ATTN_NORM, DIM_ONE, DIM_HIDDEN,
     SHARD_NONE, REQUIRED},
    {LAYER "post_attention_layernorm.weight", "blk.%d.ffn_norm.weight", W_FFN_NORM, DIM_ONE,
     DIM_HIDDEN, SHARD_NONE, REQUIRED},
    {0},
};

const struct arch arch_llama = {
    .hf_name = "LlamaForCausalLM",
    .gguf_name = "llama",
    .config = llama_config,
    .tensors = {llama_products, llama_norms},
    .gguf_rope = ROPE_ADJACENT,
    .hf_rope = ROPE_NEOX,
    .act = ACT_SILU,
    .norm = NORM_RMS,
};
