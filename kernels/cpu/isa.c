/* isa.c - which instruction sets a processor has, and which of them serves it best. */
#include "kernels/cpu/isa.h"

#include <asm/prctl.h>
#include <cpuid.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    XCR0_AVX = 0x06,
    XCR0_AVX512 = 0xe6,
    XCR0_TILES = 0x60000,
    STATE_TILE_DATA = 18, /* of XCR0 */
    EAX7_1_AVX512BF16 = 1 << 5,
};

static const uint32_t AMX_WORDS = (uint32_t)1 << 24 | (uint32_t)1 << 25; /* tiles, of 8 bits */

static const char *const names[ISA_N] = {
    [ISA_SCALAR] = "scalar",         [ISA_AVX2] = "avx2",
    [ISA_AVX512] = "avx512",         [ISA_AVX512VNNI] = "avx512vnni",
    [ISA_AVX512BF16] = "avx512bf16", [ISA_AMX] = "amx",
};

const char *isa_name(enum isa isa)
{
    return names[isa];
}

static uint64_t read_xcr0(void)
{
    uint32_t lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return (uint64_t)hi << 32 | lo;
}

/* A process must ask before a thread of it touches a tile; the kernel may be older, or refuse. */
static bool ask_for_tiles(void)
{
#if defined SYS_arch_prctl && defined ARCH_REQ_XCOMP_PERM
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, STATE_TILE_DATA) == 0;
#else
    return false;
#endif
}

struct cpu_words cpu_words_read(void)
{
    struct cpu_words w = {0};
    unsigned a, b, c, d, subleaves;
    if (__get_cpuid(0, &a, &b, &c, &d)) {
        memcpy(w.vendor, &b, 4);
        memcpy(w.vendor + 4, &d, 4);
        memcpy(w.vendor + 8, &c, 4);
    }
    if (__get_cpuid(1, &a, &b, &c, &d))
        w.ecx1 = c;
    if (__get_cpuid_count(7, 0, &subleaves, &w.ebx7, &w.ecx7, &w.edx7) && subleaves > 0 &&
        __get_cpuid_count(7, 1, &a, &b, &c, &d))
        w.eax7_1 = a;
    if (w.ecx1 & bit_OSXSAVE)
        w.xcr0 = read_xcr0();
    if ((w.edx7 & AMX_WORDS) == AMX_WORDS)
        w.may_use_amx = ask_for_tiles();
    return w;
}

static bool all_of(uint64_t words, uint64_t wanted)
{
    return (words & wanted) == wanted;
}

bool isa_has(const struct cpu_words *w, enum isa isa)
{
    switch (isa) {
    case ISA_SCALAR:
        return true;
    case ISA_AVX2:
        return all_of(w->ecx1, bit_OSXSAVE | bit_AVX | bit_FMA | bit_F16C) &&
               all_of(w->ebx7, bit_AVX2 | bit_BMI2) && all_of(w->xcr0, XCR0_AVX);
    case ISA_AVX512:
        return isa_has(w, ISA_AVX2) && all_of(w->xcr0, XCR0_AVX512) &&
               all_of(w->ebx7, bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL);
    case ISA_AVX512VNNI:
        return isa_has(w, ISA_AVX512) && (w->ecx7 & bit_AVX512VNNI);
    case ISA_AVX512BF16:
        return isa_has(w, ISA_AVX512VNNI) && (w->eax7_1 & EAX7_1_AVX512BF16);
    case ISA_AMX:
        return isa_has(w, ISA_AVX512VNNI) && all_of(w->edx7, AMX_WORDS) &&
               all_of(w->xcr0, XCR0_TILES) && w->may_use_amx;
    case ISA_N:
        break;
    }
    return false;
}

static bool is_quick(const struct cpu_words *w, enum isa isa)
{
    return isa != ISA_AVX512BF16 || strcmp(w->vendor, "AuthenticAMD") == 0;
}

enum isa isa_choose(const struct cpu_words *w, enum isa most)
{
    enum isa isa = most;
    while (isa > ISA_SCALAR && !(isa_has(w, isa) && (isa == most || is_quick(w, isa))))
        isa--;
    return isa;
}
