/* prefix_cache.h - which block holds the KV of which run of tokens.
 *
 * A full block is found by a chained hash: SipHash-128 of (hash of the block before, this
 * block's tokens).  The chain begins with the hash of the request's trust domain, so
 * requests of different domains never share a block, whatever their tokens.  On a hit the
 * tokens are compared as well.
 *
 * The cache holds no reference: an entry lives as long as its block has a hash in
 * kv_blocks, that is, until the block is taken for something else (prefix_cache_remove) or
 * the device loses its content (prefix_cache_flush).
 *
 * Two sequences may compute the same block at the same time; the first to be sealed is the
 * one in the cache, the other stays private.
 *
 * Thread: scheduler. */
#ifndef SCHEDULER_PREFIX_CACHE_H
#define SCHEDULER_PREFIX_CACHE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/hash.h"
#include "scheduler/kv_blocks.h"

struct arena;

struct prefix_cache {
    struct hash_key key;
    int32_t block_tokens;
    int32_t n_blocks;
    struct hash128 *hash; /* [n_blocks] chained hash of the entry of a block */
    int32_t *tokens;      /* [n_blocks, block_tokens] its tokens */
    bool *used;           /* [n_blocks] the block has an entry */
    block_id *table;      /* [table_mask + 1] open addressing, linear probing */
    uint32_t table_mask;
    int32_t n_used;
};

size_t prefix_cache_bytes(int32_t n_blocks, int32_t block_tokens); /* of the arena, at most */
bool prefix_cache_init(struct prefix_cache *c, struct arena *a, const struct hash_key *key,
                       int32_t n_blocks, int32_t block_tokens);

struct hash128 prefix_cache_root(const struct prefix_cache *c, struct hash128 domain);
struct hash128 prefix_cache_next(const struct prefix_cache *c, struct hash128 before,
                                 const int32_t *tokens /* [block_tokens] */);

/* The block under this hash with these tokens, or BLOCK_NONE. */
block_id prefix_cache_find(const struct prefix_cache *c, struct hash128 hash,
                           const int32_t *tokens);
/* False, and no change, if another block is there already. */
bool prefix_cache_add(struct prefix_cache *c, struct hash128 hash, const int32_t *tokens,
                      block_id id);
void prefix_cache_remove(struct prefix_cache *c, block_id id);
void prefix_cache_flush(struct prefix_cache *c);
bool prefix_cache_valid(const struct prefix_cache *c);

#endif
