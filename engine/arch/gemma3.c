/* gemma3.c - Gemma 3, text: the Llama block with norms on both sides of each part and on the heads
 * of q and k, a gated GELU, embeddings scaled by their width, and five layers that see a window for
 * each one that sees all, with rotary bases of their own. */
#include "engine/arch/llama.h"
#include "engine/model.h"

#define FIELD(name) offsetof(struct model_config, name)

static const struct config_rule gemma3_config[] = {
    {"hidden_size", "embedding_length", F_INT, FIELD(hidden), REQUIRED, 0, 8, 65536},
    {"num_hidden_layers", "block_count", F_INT, FIELD(n_layers), REQUIRED, 0, 1, LAYERS_MAX},
    {"num_attention_heads", "attention.head_count", F_INT, FIELD(n_heads), REQUIRED, 0, 1, 1024},
    {"num_key_value_heads", "attention.head_count_kv", F_INT, FIELD(n_kv_heads), REQUIRED, 0, 1,
     1024},
    {"head_dim", "attention.key_length", F_INT, FIELD(head_dim), REQUIRED, 0, 8, 512},
    {NULL, "attention.value_length", F_INT, FIELD(value_dim), OPTIONAL, 0, 8, 512},
    {"query_pre_attn_scalar", NULL, F_FLOAT, FIELD(attn_scalar), REQUIRED, 0, 1, 65536},
    {"intermediate_size", "feed_forward_length", F_INT, FIELD(ffn), REQUIRED, 0, 8, 1 << 20},
    {"max_position_embeddings", "context_length", F_INT, FIELD(context), REQUIRED, 0, 1, 1 << 24},
    {"vocab_size", "vocab_size", F_INT, FIELD(vocab), OPTIONAL, 0, 1, 1 << 24},
    {"sliding_window", "attention.sliding_window", F_INT, FIELD(window), OPTIONAL, 0, 1, 1 << 24},
    {"sliding_window_pattern", "attention.sliding_window_pattern", F_INT, FIELD(window_pattern),
     OPTIONAL, 6, 1, LAYERS_MAX},
    {"rope_theta", "rope.freq_base", F_FLOAT, FIELD(rope_theta), OPTIONAL, 1e6, 1, 1e12},
    {"rope_local_base_freq", "rope.freq_base_swa", F_FLOAT, FIELD(rope_theta_local), OPTIONAL, 1e4,
     1, 1e12},
    {"rms_norm_eps", "attention.layer_norm_rms_epsilon", F_FLOAT, FIELD(norm_eps), REQUIRED, 0,
     1e-12, 0.1},
    /* What later or earlier models of the name have and this decoder does not do. */
    {"attn_logit_softcapping", "attn_logit_softcapping", F_FLOAT, FIELD(attn_cap), OPTIONAL, 0, 0,
     0},
    {"final_logit_softcapping", "final_logit_softcapping", F_FLOAT, FIELD(logit_cap), OPTIONAL, 0,
     0, 0},
    {"use_bidirectional_attention", NULL, F_INT, FIELD(bidirectional), OPTIONAL, 0, 0, 0},
    {0},
};

static const struct tensor_rule gemma3_norms[] = {
    {"model.norm.weight", "output_norm.weight", W_FINAL_NORM, DIM_ONE, DIM_HIDDEN, SHARD_NONE,
     REQUIRED},
    {LAYER "input_layernorm.weight", "blk.%d.attn_norm.weight", W_ATTN_NORM, DIM_ONE, DIM_HIDDEN,
     SHARD_NONE, REQUIRED},
    {LAYER "self_attn.q_norm.weight", "blk.%d.attn_q_norm.weight", W_Q_NORM, DIM_ONE, DIM_HEAD,
     SHARD_NONE, REQUIRED},
    {LAYER "self_attn.k_norm.weight", "blk.%d.attn_k_norm.weight", W_K_NORM, DIM_ONE, DIM_HEAD,
     SHARD_NONE, REQUIRED},
    {LAYER "post_attention_layernorm.weight", "blk.%d.post_attention_norm.weight", W_ATTN_OUT_NORM,
     DIM_ONE, DIM_HIDDEN, SHARD_NONE, REQUIRED},
    {LAYER "pre_feedforward_layernorm.weight", "blk.%d.ffn_norm.weight", W_FFN_NORM, DIM_ONE,
     DIM_HIDDEN, SHARD_NONE, REQUIRED},
    {LAYER "post_feedforward_layernorm.weight", "blk.%d.post_ffw_norm.weight", W_FFN_OUT_NORM,
     DIM_ONE, DIM_HIDDEN, SHARD_NONE, REQUIRED},
    {0},
};

const struct arch arch_gemma3 = {
    .hf_name = "Gemma3ForCausalLM",
    .gguf_name = "gemma3",
    .config = gemma3_config,
    .tensors = {llama_products, gemma3_norms},
    .gguf_rope = ROPE_NEOX,
    .hf_rope = ROPE_NEOX,
    .act = ACT_GELU_TANH,
    .norm = NORM_RMS,
    .tied = true,
    .hf_gain = 1,
    .embed_by_width = true,
    .gguf_layers_scaled_by_share = 62, /* 27B */
};
