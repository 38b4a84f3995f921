/* What isa promises: the choice follows from the processor's words alone, is never above the limit
 * or what is there, and takes the slow AVX512_BF16 only when it is named. */
#include "kernels/cpu/isa.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

enum { OLD_ECX1 = 1 << 27 | 1 << 28 | 1 << 12 | 1 << 29 };

static const uint32_t EBX_AVX2 = 1 << 5 | 1 << 8;
static const uint32_t EBX_AVX512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;
static const uint32_t ECX_VNNI = 1 << 11, EDX_AMX = 1 << 24 | 1 << 25, EAX_BF16 = 1 << 5;

static const struct machine {
    const char *name, *vendor;
    bool avx2, avx512, vnni, bf16, amx, may_use_amx;
    uint64_t xcr0;
    enum isa best, at_bf16; /* with no limit; with AVX512BF16 named */
} machines[] = {
    {"plain", "GenuineIntel", 0, 0, 0, 0, 0, 0, 0x7, ISA_SCALAR, ISA_SCALAR},
    {"Haswell", "GenuineIntel", 1, 0, 0, 0, 0, 0, 0x7, ISA_AVX2, ISA_AVX2},
    {"AVX2, registers not saved", "GenuineIntel", 1, 0, 0, 0, 0, 0, 0x3, ISA_SCALAR, ISA_SCALAR},
    {"Skylake", "GenuineIntel", 1, 1, 0, 0, 0, 0, 0xe7, ISA_AVX512, ISA_AVX512},
    {"Skylake, registers not saved", "GenuineIntel", 1, 1, 0, 0, 0, 0, 0x7, ISA_AVX2, ISA_AVX2},
    {"Cascade Lake", "GenuineIntel", 1, 1, 1, 0, 0, 0, 0xe7, ISA_AVX512VNNI, ISA_AVX512VNNI},
    {"Cooper Lake", "GenuineIntel", 1, 1, 1, 1, 0, 0, 0xe7, ISA_AVX512VNNI, ISA_AVX512BF16},
    {"Zen 3", "AuthenticAMD", 1, 0, 0, 0, 0, 0, 0x7, ISA_AVX2, ISA_AVX2},
    {"Zen 4", "AuthenticAMD", 1, 1, 1, 1, 0, 0, 0xe7, ISA_AVX512BF16, ISA_AVX512BF16},
    {"Sapphire Rapids", "GenuineIntel", 1, 1, 1, 1, 1, 1, 0x600e7, ISA_AMX, ISA_AVX512BF16},
    {"the same, tiles refused", "GenuineIntel", 1, 1, 1, 1, 1, 0, 0x600e7, ISA_AVX512VNNI,
     ISA_AVX512BF16},
    {"the same, tiles not saved", "GenuineIntel", 1, 1, 1, 1, 1, 1, 0xe7, ISA_AVX512VNNI,
     ISA_AVX512BF16},
};

static struct cpu_words words_of(const struct machine *m)
{
    struct cpu_words w = {.xcr0 = m->xcr0, .may_use_amx = m->may_use_amx};
    memcpy(w.vendor, m->vendor, sizeof w.vendor);
    w.ecx1 = OLD_ECX1;
    w.ebx7 = (m->avx2 ? EBX_AVX2 : 0) | (m->avx512 ? EBX_AVX512 : 0);
    w.ecx7 = m->vnni ? ECX_VNNI : 0;
    w.edx7 = m->amx ? EDX_AMX : 0;
    w.eax7_1 = m->bf16 ? EAX_BF16 : 0;
    return w;
}

static void each_processor_gets_what_serves_it_best(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof machines / sizeof *machines; i++) {
        const struct machine *m = &machines[i];
        const struct cpu_words w = words_of(m);
        const enum isa best = isa_choose(&w, ISA_N - 1), named = isa_choose(&w, ISA_AVX512BF16);
        if (best != m->best || named != m->at_bf16)
            fail_msg("%s: got %s, and %s where avx512bf16 is named", m->name, isa_name(best),
                     isa_name(named));
    }
}

static void the_choice_is_never_above_the_limit_or_what_is_there(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof machines / sizeof *machines; i++)
        for (int most = 0; most < ISA_N; most++) {
            const struct cpu_words w = words_of(&machines[i]);
            const enum isa isa = isa_choose(&w, (enum isa)most);
            assert_true(isa <= (enum isa)most && isa_has(&w, isa));
        }
}

static void a_processor_without_words_is_scalar(void **state)
{
    (void)state;
    const struct cpu_words none = {0};
    assert_int_equal(isa_choose(&none, ISA_N - 1), ISA_SCALAR);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_processor_gets_what_serves_it_best),
        cmocka_unit_test(the_choice_is_never_above_the_limit_or_what_is_there),
        cmocka_unit_test(a_processor_without_words_is_scalar),
    };
    return cmocka_run_group_tests_name("isa", tests, NULL, NULL);
}
