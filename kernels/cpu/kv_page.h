/* kv_page.h - where a token's K and V are in the paged cache. */
#ifndef KERNELS_CPU_KV_PAGE_H
#define KERNELS_CPU_KV_PAGE_H

#include "kernels/ops.h"

static inline size_t kv_value_bytes(enum dtype dtype)
{
    return (size_t)dtype_traits[dtype].block_bytes;
}

/* Number of the row of `position` in the sequence whose blocks are in `table`: of K, of V, and of
 * their scales. */
static inline size_t kv_row(const struct kv_cache *kv, int layer, const int32_t *table, int kv_head,
                            int position)
{
    size_t block =
        (size_t)layer * (size_t)kv->n_blocks + (size_t)table[position / kv->block_tokens];
    return (block * (size_t)kv->n_kv_heads + (size_t)kv_head) * (size_t)kv->block_tokens +
           (size_t)(position % kv->block_tokens);
}

static inline size_t kv_row_bytes(const struct kv_cache *kv)
{
    return (size_t)kv->head_dim * kv_value_bytes(kv->dtype);
}

/* The place in its sequence's cache of token t of the batch. */
static inline int batch_kv_position(const struct batch *b, int t)
{
    int seq = b->token_seq[t];
    return b->kv_len[seq] - (b->seq_start[seq + 1] - t);
}

static inline const int32_t *batch_table(const struct batch *b, int table_stride, int seq)
{
    return b->block_table + (size_t)b->slot[seq] * (size_t)table_stride;
}

#endif
