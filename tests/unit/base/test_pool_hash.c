/* What pool promises: equal slots whose ids are never valid twice.  What hash promises: SipHash's
 * published values. */
#include "base/arena.h"
#include "base/hash.h"
#include "base/pool.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

enum { N_SLOTS = 5 };

static void a_stale_id_finds_nothing(void **state)
{
    (void)state;
    static _Alignas(16) char mem[4096];
    struct arena a;
    struct pool p;
    arena_init(&a, mem, sizeof mem);
    assert_true(pool_init(&p, &a, N_SLOTS, 32));
    uint64_t id[N_SLOTS], old, next;
    for (int i = 0; i < N_SLOTS; i++)
        assert_non_null(pool_take(&p, &id[i]));
    assert_null(pool_take(&p, &next));
    old = id[2];
    pool_drop(&p, old);
    assert_null(pool_get(&p, old));
    void *again = pool_take(&p, &next);
    assert_true(pool_slot(next) == pool_slot(old) && next != old);
    assert_ptr_equal(pool_get(&p, next), again);
    assert_null(pool_get(&p, old));
    assert_null(pool_get(&p, 0));
    assert_null(pool_get(&p, UINT64_MAX));
    assert_true(pool_valid(&p));
}

static void any_order_of_calls_keeps_the_pool_valid(void **state)
{
    (void)state;
    static _Alignas(16) char mem[4096];
    struct arena a;
    struct pool p;
    arena_init(&a, mem, sizeof mem);
    assert_true(pool_init(&p, &a, N_SLOTS, 16));
    uint64_t held[N_SLOTS] = {0}, rng = 3;
    for (int step = 0; step < 20000; step++) {
        rng = rng * 6364136223846793005u + 1442695040888963407u;
        const size_t i = (rng >> 40) % N_SLOTS;
        if (held[i]) {
            assert_non_null(pool_get(&p, held[i]));
            pool_drop(&p, held[i]);
            assert_null(pool_get(&p, held[i]));
            held[i] = 0;
        } else {
            const char *slot = pool_take(&p, &held[i]);
            assert_non_null(slot);
            assert_int_equal(slot[0] | slot[15], 0);
            memset(pool_get(&p, held[i]), 0xab, 16);
        }
        assert_true(pool_valid(&p));
    }
}

/* The 128-bit test vectors of the SipHash reference: key 00..0f, input 00, 01, 02, ... */
static void siphash_gives_its_published_values(void **state)
{
    (void)state;
    static const uint8_t want[3][16] = {
        {0xa3, 0x81, 0x7f, 0x04, 0xba, 0x25, 0xa8, 0xe6, 0x6d, 0xf6, 0x72, 0x14, 0xc7, 0x55, 0x02,
         0x93},
        {0xda, 0x87, 0xc1, 0xd8, 0x6b, 0x99, 0xaf, 0x44, 0x34, 0x76, 0x59, 0x11, 0x9b, 0x22, 0xfc,
         0x45},
        {0x81, 0x77, 0x22, 0x8d, 0xa4, 0xa4, 0x5d, 0xc7, 0xfc, 0xa3, 0x8b, 0xde, 0xf6, 0x0a, 0xff,
         0xe4},
    };
    uint8_t key_bytes[16], input[3] = {0, 1, 2};
    for (uint8_t i = 0; i < 16; i++)
        key_bytes[i] = i;
    struct hash_key key;
    memcpy(&key, key_bytes, sizeof key);
    for (size_t n = 0; n < 3; n++) {
        const struct hash128 h = siphash128(&key, input, n);
        assert_memory_equal(&h, want[n], 16);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stale_id_finds_nothing),
        cmocka_unit_test(any_order_of_calls_keeps_the_pool_valid),
        cmocka_unit_test(siphash_gives_its_published_values),
    };
    return cmocka_run_group_tests_name("pool and hash", tests, NULL, NULL);
}
