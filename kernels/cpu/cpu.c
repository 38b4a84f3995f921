/* cpu.c - the CPU device: its instruction set, its memory, and the table of its ops.
 *
 * The ops run at the call, so wait() has nothing to wait for, and a CPU reports no faults: a
 * machine check ends the process.  Memory comes straight from the kernel, zeroed, and goes back
 * when the device closes. */
#include "kernels/cpu/cpu_int.h"

#include "base/checked.h"

#include <assert.h>
#include <cpuid.h>
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { THREADS_MAX = 64 };

static const size_t PAGE_BYTES = 4096;
static const size_t HUGE_BYTES = (size_t)2 << 20;

static const char *const isa_names[ISA_N] = {
    [ISA_SCALAR] = "scalar",
    [ISA_AVX2] = "avx2",
    [ISA_AVX512] = "avx512",
    [ISA_AVX512VNNI] = "avx512vnni",
};

/* In front of each range that mem_take gives out; 64 bytes, so that the range is aligned too. */
struct mem_range {
    _Alignas(64) struct mem_range *next;
    size_t n_bytes; /* of the mapping, this header included */
};

/* The register states that the operating system saves: XCR0. */
static uint64_t read_xcr0(void)
{
    uint32_t lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return (uint64_t)hi << 32 | lo;
}

/* The best level that both the processor and the operating system support. */
static enum isa detect_isa(void)
{
    enum { XCR0_AVX = 0x06, XCR0_AVX512 = 0xe6 };
    const unsigned need1 = bit_OSXSAVE | bit_AVX | bit_FMA | bit_F16C;
    const unsigned need7_avx2 = bit_AVX2 | bit_BMI2;
    const unsigned need7_avx512 = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
    unsigned a, b, c, d, b7, c7;

    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & need1) != need1)
        return ISA_SCALAR;
    if (!__get_cpuid_count(7, 0, &a, &b7, &c7, &d) || (b7 & need7_avx2) != need7_avx2)
        return ISA_SCALAR;
    uint64_t saved = read_xcr0();
    if ((saved & XCR0_AVX) != XCR0_AVX)
        return ISA_SCALAR;
    if ((b7 & need7_avx512) != need7_avx512 || (saved & XCR0_AVX512) != XCR0_AVX512)
        return ISA_AVX2;
    return c7 & bit_AVX512VNNI ? ISA_AVX512VNNI : ISA_AVX512;
}

static bool choose_isa(struct device *d, const char *isa_max, struct status *st)
{
    d->isa = detect_isa();
    if (!isa_max)
        return true;
    for (int i = 0; i < ISA_N; i++) {
        if (strcmp(isa_names[i], isa_max) != 0)
            continue;
        if (d->isa > (enum isa)i)
            d->isa = (enum isa)i;
        return true;
    }
    return status_fail(st, STATUS_BAD_INPUT,
                       "instruction set \"%.40s\" is not one of scalar, avx2, avx512, avx512vnni",
                       isa_max);
}

static bool choose_threads(struct device *d, int n_threads, struct status *st)
{
    if (n_threads < 0 || n_threads > THREADS_MAX)
        return status_fail(st, STATUS_BAD_INPUT, "%d threads is not in 0..%d", n_threads,
                           THREADS_MAX);
    if (n_threads == 0) {
        cpu_set_t usable;
        n_threads = sched_getaffinity(0, sizeof usable, &usable) == 0 ? CPU_COUNT(&usable) : 1;
        if (n_threads > THREADS_MAX)
            n_threads = THREADS_MAX;
    }
    d->n_threads = n_threads;
    return true;
}

/* Maps n_bytes on a boundary of a huge page, so that the kernel can use them from the start. */
static void *map_huge(size_t n_bytes)
{
    size_t n_mapped;
    if (!size_add(n_bytes, HUGE_BYTES, &n_mapped)) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    char *map = mmap(NULL, n_mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED)
        return map;
    size_t skip = (HUGE_BYTES - (uintptr_t)map % HUGE_BYTES) % HUGE_BYTES;
    if (skip)
        munmap(map, skip);
    if (HUGE_BYTES - skip)
        munmap(map + skip + n_bytes, HUGE_BYTES - skip);
    madvise(map + skip, n_bytes, MADV_HUGEPAGE); /* advice: without it the pages are small */
    return map + skip;
}

static void *take_mem(struct device *d, size_t n_bytes, struct status *st)
{
    size_t n_mapped;
    struct mem_range *range = MAP_FAILED;
    errno = ENOMEM;
    if (size_add(n_bytes, sizeof *range, &n_mapped) &&
        size_align(n_mapped, PAGE_BYTES, &n_mapped)) {
        if (n_mapped >= HUGE_BYTES)
            range = map_huge(n_mapped);
        else
            range =
                mmap(NULL, n_mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    }
    if (range == MAP_FAILED) {
        int error = errno;
        status_fail(st, STATUS_IO, "take %zu bytes: %s", n_bytes, strerror(error));
        st->sys = error;
        return NULL;
    }
    *range = (struct mem_range){.next = d->mem, .n_bytes = n_mapped};
    d->mem = range;
    return range + 1;
}

static size_t largest(size_t a, size_t b)
{
    return a > b ? a : b;
}

static size_t count_scratch(const struct device *d, int rows_max, int in_max, int vocab)
{
    size_t n = cpu_matmul_scratch_bytes(d, rows_max, in_max);
    n = largest(n, cpu_attention_scratch_bytes(d, rows_max));
    return largest(n, cpu_sample_scratch_bytes(d, vocab));
}

static void set_scratch(struct device *d, void *scratch, size_t n_bytes)
{
    d->scratch = scratch;
    d->scratch_bytes = n_bytes;
}

static bool wait_idle(struct device *d, struct status *st)
{
    (void)d;
    (void)st;
    return true;
}

static void close_device(struct device *d)
{
    if (!d)
        return;
    thread_pool_close(d->pool);
    for (struct mem_range *range = d->mem, *next; range; range = next) {
        next = range->next;
        munmap(range, range->n_bytes);
    }
    free(d);
}

void cpu_parallel(struct device *d, void (*fn)(void *ctx, int part, int thread), void *ctx,
                  int n_parts)
{
    thread_pool_run(d->pool, fn, ctx, n_parts);
}

struct device *cpu_open(const struct device_options *opts, struct status *st)
{
    struct device *d = calloc(1, sizeof *d);
    if (!d) {
        status_fail(st, STATUS_IO, "no memory for a device");
        return NULL;
    }
    d->precision = opts->precision;
    if (!choose_isa(d, opts->isa_max, st) || !choose_threads(d, opts->n_threads, st))
        goto fail;
    d->pool = thread_pool_open(d->n_threads, st);
    if (!d->pool)
        goto fail;
    return d;

fail:
    status_wrap(st, "open CPU device");
    close_device(d);
    return NULL;
}

const char *cpu_isa(const struct device *d)
{
    return isa_names[d->isa];
}

const struct ops *cpu_ops(void)
{
    static const struct ops ops = {
        .name = "cpu",
        .mem_take = take_mem,
        .weight_bytes = cpu_weight_bytes,
        .weight_put = cpu_weight_put,
        .scratch_bytes = count_scratch,
        .scratch_set = set_scratch,
        .embed = cpu_embed,
        .matmul = cpu_matmul,
        .norm = cpu_norm,
        .rope_kv = cpu_rope_kv,
        .attention = cpu_attention,
        .act = cpu_act,
        .gather = cpu_gather,
        .sample = cpu_sample,
        .wait = wait_idle,
        .close = close_device,
    };
    return &ops;
}
