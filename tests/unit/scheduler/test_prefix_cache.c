/* What prefix_cache promises: a block is found by exactly its tokens, all those before them
 * and its trust domain; the first to be sealed wins; removal leaves no trace.
 * Every test ends with the full check, in teardown. */
#include "base/arena.h"
#include "scheduler/prefix_cache.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { N_BLOCKS = 8, BLOCK_TOKENS = 4 };

struct fixture {
    struct prefix_cache cache;
    void *mem;
};

static const struct hash_key key = {1, 2};
static const struct hash128 alice = {10, 0}, bob = {11, 0};
static const int32_t first[BLOCK_TOKENS] = {1, 2, 3, 4}, second[BLOCK_TOKENS] = {5, 6, 7, 8};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    const size_t n = prefix_cache_bytes(N_BLOCKS, BLOCK_TOKENS);
    f->mem = malloc(n);
    struct arena a;
    arena_init(&a, f->mem, n);
    assert_true(prefix_cache_init(&f->cache, &a, &key, N_BLOCKS, BLOCK_TOKENS));
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    assert_true(prefix_cache_valid(&f->cache));
    free(f->mem);
    free(f);
    return 0;
}

static void a_chain_is_found_by_its_tokens_in_order(void **state)
{
    struct prefix_cache *c = &((struct fixture *)*state)->cache;
    const struct hash128 h1 = prefix_cache_next(c, prefix_cache_root(c, alice), first);
    const struct hash128 h2 = prefix_cache_next(c, h1, second);
    assert_true(prefix_cache_add(c, h1, first, 3));
    assert_true(prefix_cache_add(c, h2, second, 5));
    assert_int_equal(prefix_cache_find(c, h1, first), 3);
    assert_int_equal(prefix_cache_find(c, h2, second), 5);
    const struct hash128 swapped = prefix_cache_next(c, prefix_cache_root(c, alice), second);
    assert_int_equal(prefix_cache_find(c, swapped, second), BLOCK_NONE);
}

static void another_domain_never_finds_it(void **state)
{
    struct prefix_cache *c = &((struct fixture *)*state)->cache;
    const struct hash128 h = prefix_cache_next(c, prefix_cache_root(c, alice), first);
    const struct hash128 other = prefix_cache_next(c, prefix_cache_root(c, bob), first);
    assert_true(prefix_cache_add(c, h, first, 0));
    assert_int_equal(prefix_cache_find(c, other, first), BLOCK_NONE);
}

static void equal_hashes_with_other_tokens_are_no_hit(void **state)
{
    struct prefix_cache *c = &((struct fixture *)*state)->cache;
    const struct hash128 h = {42, 42};
    assert_true(prefix_cache_add(c, h, first, 0));
    assert_int_equal(prefix_cache_find(c, h, second), BLOCK_NONE);
    assert_false(prefix_cache_add(c, h, second, 1));
}

static void the_first_to_be_added_stays(void **state)
{
    struct prefix_cache *c = &((struct fixture *)*state)->cache;
    const struct hash128 h = prefix_cache_next(c, prefix_cache_root(c, alice), first);
    assert_true(prefix_cache_add(c, h, first, 1));
    assert_false(prefix_cache_add(c, h, first, 2));
    assert_int_equal(prefix_cache_find(c, h, first), 1);
}

static void a_flush_forgets_everything(void **state)
{
    struct prefix_cache *c = &((struct fixture *)*state)->cache;
    const struct hash128 h = prefix_cache_next(c, prefix_cache_root(c, alice), first);
    assert_true(prefix_cache_add(c, h, first, 1));
    prefix_cache_flush(c);
    assert_int_equal(prefix_cache_find(c, h, first), BLOCK_NONE);
    assert_true(prefix_cache_add(c, h, first, 1));
}

/* Against an array: hashes are drawn from a few table positions, so that runs form and wrap. */
static void any_order_of_adds_and_removes_keeps_the_table(void **state)
{
    struct prefix_cache *c = &((struct fixture *)*state)->cache;
    uint64_t rng = 3, held[N_BLOCKS] = {0};
    for (int step = 0; step < 50000; step++) {
        rng = rng * 6364136223846793005u + 1442695040888963407u;
        const block_id id = (block_id)(rng >> 61);
        const uint64_t lo = 13 + (rng >> 40) % 4, hi = (rng >> 50) % 4;
        const uint64_t name = lo * 8 + hi + 1;
        const struct hash128 h = {lo, hi};
        bool there = false;
        for (int i = 0; i < N_BLOCKS; i++)
            there |= held[i] == name;
        if (held[id]) {
            prefix_cache_remove(c, id);
            held[id] = 0;
        } else {
            assert_int_equal(prefix_cache_add(c, h, first, id), !there);
            held[id] = there ? 0 : name;
        }
        assert_true(prefix_cache_valid(c));
        for (int i = 0; i < N_BLOCKS; i++)
            if (held[i]) {
                const struct hash128 want = {(held[i] - 1) / 8, (held[i] - 1) % 8};
                assert_int_equal(prefix_cache_find(c, want, first), i);
            }
    }
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(a_chain_is_found_by_its_tokens_in_order),
        T(another_domain_never_finds_it),
        T(equal_hashes_with_other_tokens_are_no_hit),
        T(the_first_to_be_added_stays),
        T(a_flush_forgets_everything),
        T(any_order_of_adds_and_removes_keeps_the_table),
    };
    return cmocka_run_group_tests_name("prefix_cache", tests, NULL, NULL);
}
