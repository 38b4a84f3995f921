/* cpu.c - the CPU device: its instruction set, its memory, and the table of its ops.
 *
 * The ops run at the call, so a step that ended is done.  A CPU reports no faults, for a machine
 * check ends the process; but a rank can lose the others.  Memory comes straight from the kernel,
 * zeroed, and goes back when the device closes. */
#include "kernels/cpu/cpu_int.h"

#include "base/checked.h"
#include "base/memory.h"
#include "kernels/comm.h"

#include <assert.h>
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { THREADS_MAX = 64 };

static const size_t PAGE_BYTES = 4096;
static const size_t HUGE_BYTES = (size_t)2 << 20;

/* In front of each range that mem_take gives out; 256 bytes, so that the range is aligned too. */
struct mem_range {
    _Alignas(256) struct mem_range *next;
    size_t n_bytes; /* of the mapping, this header included */
};

static bool choose_isa(struct device *d, const char *isa_max, struct status *st)
{
    const struct cpu_words words = cpu_words_read();
    int most = ISA_N - 1;
    while (isa_max && most >= 0 && strcmp(isa_name((enum isa)most), isa_max) != 0)
        most--;
    if (most < 0)
        return status_fail(st, STATUS_BAD_INPUT,
                           "instruction set \"%.40s\" is not one of scalar, avx2, avx512, "
                           "avx512vnni, avx512bf16, amx",
                           isa_max);
    d->isa = isa_choose(&words, (enum isa)most);
    return true;
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
    if (d->grid || d->comm)
        n_threads /= comm_size(d->grid ? d->grid : d->comm);
    d->n_threads = n_threads > 0 ? n_threads : 1;
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

static enum dtype act_dtype(const struct device *d)
{
    (void)d;
    return DT_F32;
}

static bool kv_fits(const struct device *d, enum dtype dtype)
{
    (void)d;
    return dtype == DT_F32 || dtype == DT_F16 || dtype == DT_BF16 || kv_has_scales(dtype);
}

static uint64_t count_free(const struct device *d)
{
    (void)d;
    return memory_available_bytes("");
}

static void copy(struct device *d, void *to, const void *from, size_t n_bytes)
{
    (void)d;
    memcpy(to, from, n_bytes);
}

static int count_memory(const struct device_options *opts, uint64_t *free_bytes, int n_max)
{
    (void)opts;
    if (n_max > 0)
        free_bytes[0] = memory_available_bytes("");
    return 1;
}

static bool weights_done(struct device *d, struct status *st)
{
    return !d->put_failed || status_fail(st, STATUS_IO, "pack weights: no memory");
}

static void end_nothing(struct device *d)
{
    (void)d;
}

static bool step_ready(struct device *d)
{
    (void)d;
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

static struct device *open_device(const struct device_options *opts, struct status *st)
{
    struct device *d = calloc(1, sizeof *d);
    if (!d) {
        status_fail(st, STATUS_IO, "no memory for a device");
        return NULL;
    }
    d->precision = opts->precision;
    d->comm = opts->comm;
    d->grid = opts->grid;
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

static const char *variant(const struct device *d)
{
    return isa_name(d->isa);
}

static void matmul_rope_kv(struct device *d, const struct matmul_args *m,
                           const struct rope_kv_args *r)
{
    cpu_linear(d, m);
    cpu_rope_kv(d, r);
}

static const struct ops ops = {
    .name = "cpu",
    .host_memory = true,
    .act_dtype = act_dtype,
    .kv_fits = kv_fits,
    .mem_free = count_free,
    .mem_take = take_mem,
    .copy_in = copy,
    .copy_out = copy,
    .weight_bytes = cpu_weight_bytes,
    .weight_put = cpu_weight_put,
    .weights_done = weights_done,
    .work_bytes = cpu_work_bytes,
    .work_set = cpu_work_set,
    .step_begin = cpu_step_begin,
    .embed = cpu_embed,
    .norm = cpu_norm,
    .matmul = cpu_linear,
    .rope_kv = cpu_rope_kv,
    .matmul_rope_kv = matmul_rope_kv,
    .attention = cpu_attention,
    .all_reduce = cpu_all_reduce,
    .send = cpu_send,
    .recv = cpu_recv,
    .head = cpu_head,
    .sample = cpu_sample,
    .step_end = end_nothing,
    .step_ready = step_ready,
    .step_wait = cpu_step_wait,
    .close = close_device,
};

static bool probe(const struct device_options *opts, struct status *why)
{
    (void)opts;
    (void)why;
    return true;
}

const struct backend cpu_backend = {
    .abi = OPS_ABI,
    .ops = &ops,
    .probe = probe,
    .open = open_device,
    .variant = variant,
    .memory = count_memory,
    .rates = cpu_rates,
};
