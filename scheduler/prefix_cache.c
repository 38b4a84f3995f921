/* prefix_cache.c - a hash table from chained hashes to blocks; see Knuth 6.4, algorithm R, for
 * removal without tombstones. */
#include "scheduler/prefix_cache.h"

#include <assert.h>
#include <string.h>

#include "base/arena.h"

static uint32_t table_size(int32_t n_blocks)
{
    uint32_t n = 4;
    while (n < 2 * (uint32_t)n_blocks)
        n *= 2;
    return n;
}

size_t prefix_cache_bytes(int32_t n_blocks, int32_t block_tokens)
{
    const size_t n = (size_t)n_blocks;
    return n * (sizeof(struct hash128) + sizeof(bool) + (size_t)block_tokens * sizeof(int32_t)) +
           table_size(n_blocks) * sizeof(block_id) + 4 * 64;
}

bool prefix_cache_init(struct prefix_cache *c, struct arena *a, const struct hash_key *key,
                       int32_t n_blocks, int32_t block_tokens)
{
    const size_t n = (size_t)n_blocks;
    *c = (struct prefix_cache){.key = *key, .block_tokens = block_tokens, .n_blocks = n_blocks};
    c->table_mask = table_size(n_blocks) - 1;
    c->hash = arena_take(a, n * sizeof *c->hash, 64);
    c->tokens = arena_take(a, n * (size_t)block_tokens * sizeof *c->tokens, 64);
    c->used = arena_take(a, n * sizeof *c->used, 64);
    c->table = arena_take(a, (c->table_mask + 1) * sizeof *c->table, 64);
    if (!c->hash || !c->tokens || !c->used || !c->table)
        return false;
    prefix_cache_flush(c);
    return true;
}

void prefix_cache_flush(struct prefix_cache *c)
{
    memset(c->used, 0, (size_t)c->n_blocks * sizeof *c->used);
    for (uint32_t i = 0; i <= c->table_mask; i++)
        c->table[i] = BLOCK_NONE;
    c->n_used = 0;
}

struct hash128 prefix_cache_root(const struct prefix_cache *c, struct hash128 domain)
{
    return siphash128(&c->key, &domain, sizeof domain);
}

struct hash128 prefix_cache_next(const struct prefix_cache *c, struct hash128 before,
                                 const int32_t *tokens)
{
    /* The hash before is the key of this one: no copy of the tokens is needed to chain them.
     * It is as secret as the first key, from which it comes. */
    const struct hash_key key = {c->key.k0 ^ before.lo, c->key.k1 ^ before.hi};
    return siphash128(&key, tokens, (size_t)c->block_tokens * sizeof *tokens);
}

static bool tokens_equal(const struct prefix_cache *c, block_id id, const int32_t *tokens)
{
    const size_t n = (size_t)c->block_tokens;
    return memcmp(&c->tokens[(size_t)id * n], tokens, n * sizeof *tokens) == 0;
}

/* The table index that has this hash, or where it would go. */
static uint32_t find_index(const struct prefix_cache *c, struct hash128 hash)
{
    uint32_t i = (uint32_t)hash.lo & c->table_mask;
    while (c->table[i] != BLOCK_NONE && !hash128_equal(c->hash[c->table[i]], hash))
        i = (i + 1) & c->table_mask;
    return i;
}

block_id prefix_cache_find(const struct prefix_cache *c, struct hash128 hash, const int32_t *tokens)
{
    const block_id id = c->table[find_index(c, hash)];
    return id != BLOCK_NONE && tokens_equal(c, id, tokens) ? id : BLOCK_NONE;
}

bool prefix_cache_add(struct prefix_cache *c, struct hash128 hash, const int32_t *tokens,
                      block_id id)
{
    assert(!c->used[id]);
    const uint32_t i = find_index(c, hash);
    if (c->table[i] != BLOCK_NONE)
        return false;
    const size_t n = (size_t)c->block_tokens;
    c->table[i] = id;
    c->hash[id] = hash;
    c->used[id] = true;
    memcpy(&c->tokens[(size_t)id * n], tokens, n * sizeof *tokens);
    c->n_used++;
    return true;
}

void prefix_cache_remove(struct prefix_cache *c, block_id id)
{
    assert(c->used[id]);
    uint32_t hole = find_index(c, c->hash[id]);
    assert(c->table[hole] == id);
    c->used[id] = false;
    c->n_used--;
    for (uint32_t i = (hole + 1) & c->table_mask; c->table[i] != BLOCK_NONE;
         i = (i + 1) & c->table_mask) {
        const uint32_t home = (uint32_t)c->hash[c->table[i]].lo & c->table_mask;
        /* An entry may fill the hole if its home is not behind the hole. */
        if (((i - home) & c->table_mask) >= ((i - hole) & c->table_mask)) {
            c->table[hole] = c->table[i];
            hole = i;
        }
    }
    c->table[hole] = BLOCK_NONE;
}

bool prefix_cache_valid(const struct prefix_cache *c)
{
    int32_t n_used = 0, n_listed = 0;
    for (block_id id = 0; id < c->n_blocks; id++) {
        if (!c->used[id])
            continue;
        n_used++;
        if (c->table[find_index(c, c->hash[id])] != id)
            return false;
    }
    for (uint32_t i = 0; i <= c->table_mask; i++)
        n_listed += c->table[i] != BLOCK_NONE;
    return n_used == c->n_used && n_listed == c->n_used;
}
