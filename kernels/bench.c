#include "kernels/bench.h"

#include <stdio.h>
#include <string.h>

#include "kernels/bench_int.h"
#include "kernels/comm.h"

const char *const kernel_bench_ops[] = {"matmul.qkv",
                                        "matmul.o",
                                        "matmul.gated",
                                        "matmul.down",
                                        "matmul_rope_kv",
                                        "rope_kv",
                                        "attention.prefill",
                                        "attention.decode",
                                        "embed",
                                        "head",
                                        "norm.rms",
                                        "norm.rms_add",
                                        "norm.layer",
                                        "sample.greedy",
                                        "sample.random",
                                        "sample.cut",
                                        "sample.top_p",
                                        "sample.all",
                                        "sample.score",
                                        "all_reduce",
                                        "head_split",
                                        "send",
                                        "recv",
                                        NULL};

/* The first three are models'; of 70b each of two ranks has its share. */
static const struct bench_shape shapes[] = {
    {"8b", 4096, 14336, 32, 8, 128, 128256, 128256, 131072, 16, true},
    {"1b", 2048, 8192, 32, 8, 64, 128256, 128256, 131072, 16, true},
    {"70b/2", 8192, 14336, 32, 4, 128, 128256, 64128, 131072, 16, true},
    {"tiny", 256, 512, 4, 2, 64, 1000, 1000, 8192, 2, false},
};
enum { N_SHAPES = sizeof shapes / sizeof shapes[0], SHAPE_CPU = 1 };

/* ---- what is wanted ---- */

static bool is_part_of(const char *name, const char *whole) /* "a.b" of "a" */
{
    const size_t n = strlen(whole);
    return strncmp(name, whole, n) == 0 && (name[n] == '\0' || name[n] == '.');
}

bool bench_wants(const struct bench_run *r, const char *op)
{
    const char *wanted = r->wanted->op;
    return !wanted || is_part_of(op, wanted) || is_part_of(wanted, op);
}

bool bench_wants_format(const struct bench_run *r, const char *format, bool usual)
{
    const char *wanted = r->wanted->format;
    return !wanted ? usual : strcmp(wanted, "all") == 0 || strcmp(wanted, format) == 0;
}

static bool wants_shape(const struct kernel_bench *b, const struct bench_shape *s, bool on_cpu)
{
    return b->shape ? strcmp(b->shape, s->name) == 0 : on_cpu ? s == &shapes[SHAPE_CPU] : s->usual;
}

/* ---- names ---- */

struct names { /* those there are, for people; "a.b|.c" is a.b and a.c, as a message is short */
    char text[220];
    size_t n_stem; /* of the last one, up to its dot */
    const char *last;
    bool has; /* the one that was asked for */
};

static void add_name(struct names *n, const char *name)
{
    const size_t at = strlen(n->text);
    const bool again = n->n_stem && strncmp(name, n->last, n->n_stem + 1) == 0;
    const char *dot = strchr(name, '.');
    snprintf(n->text + at, sizeof n->text - at, "%s%s",
             again ? "|"
             : at  ? ", "
                   : "",
             again ? dot : name);
    n->n_stem = dot ? (size_t)(dot - name) : 0;
    n->last = name;
}

static bool refuse(const char *what, const struct names *n, const char *found, struct status *st)
{
    return status_fail(st, STATUS_BAD_INPUT, "%s \"%.16s\": want %s", what, found, n->text);
}

static bool check_shape(const struct kernel_bench *b, struct status *st)
{
    struct names n = {.has = !b->shape};
    for (int i = 0; i < N_SHAPES; i++) {
        add_name(&n, shapes[i].name);
        n.has |= b->shape && strcmp(b->shape, shapes[i].name) == 0;
    }
    return n.has || refuse("shape", &n, b->shape, st);
}

static bool check_op(const struct kernel_bench *b, struct status *st)
{
    struct names n = {.has = !b->op};
    for (const char *const *op = kernel_bench_ops; *op; op++) {
        add_name(&n, *op);
        n.has |= b->op && is_part_of(*op, b->op);
    }
    return n.has || refuse("op", &n, b->op, st);
}

static bool check_format(const struct kernel_bench *b, struct status *st)
{
    struct names n = {.has = !b->format};
    for (const struct bench_format *f = bench_formats; f->name; f++) {
        add_name(&n, f->name);
        n.has |= b->format && strcmp(b->format, f->name) == 0;
    }
    for (int i = 0; i < CACHE_FORMATS; i++) {
        add_name(&n, bench_cache_formats[i].name);
        n.has |= b->format && strcmp(b->format, bench_cache_formats[i].name) == 0;
    }
    add_name(&n, "all");
    n.has |= b->format && strcmp(b->format, "all") == 0;
    return n.has || refuse("format", &n, b->format, st);
}

static bool check_ranks(const struct kernel_bench *b, struct status *st)
{
    static const char *const of_ranks[] = {"all_reduce", "head_split", "send", "recv"};
    if (b->n_ranks > COMM_RANKS_MAX)
        return status_fail(st, STATUS_BAD_INPUT, "ranks: want at most %d, found %d", COMM_RANKS_MAX,
                           b->n_ranks);
    bool is_of_ranks = false;
    for (size_t i = 0; b->op && i < sizeof of_ranks / sizeof of_ranks[0]; i++)
        is_of_ranks |= strcmp(b->op, of_ranks[i]) == 0;
    if (is_of_ranks && b->n_ranks < 2)
        return status_fail(st, STATUS_BAD_INPUT, "op: %s wants ranks, 2 or more", b->op);
    return !b->op || is_of_ranks || b->n_ranks < 2 ||
           status_fail(st, STATUS_BAD_INPUT, "ranks: op %s is one device's", b->op);
}

/* A format of weights is for ops that read them, one of the cache for those that read that. */
static bool check_pair(const struct kernel_bench *b, struct status *st)
{
    static const char *const of_weights[] = {"embed", "matmul", "matmul_rope_kv", "head"};
    static const char *const of_cache[] = {"attention", "rope_kv"};
    bool is_cache = false, fits = false;
    if (!b->op || !b->format || strcmp(b->format, "all") == 0)
        return true;
    for (int i = 0; i < CACHE_FORMATS; i++)
        is_cache |= strcmp(b->format, bench_cache_formats[i].name) == 0;
    for (size_t i = 0; !is_cache && i < sizeof of_weights / sizeof of_weights[0]; i++)
        fits |= is_part_of(b->op, of_weights[i]);
    for (size_t i = 0; is_cache && i < sizeof of_cache / sizeof of_cache[0]; i++)
        fits |= is_part_of(b->op, of_cache[i]);
    return fits || status_fail(st, STATUS_BAD_INPUT, "format: %s is of %s, which op %s has none of",
                               b->format, is_cache ? "a cache" : "weights", b->op);
}

/* ---- a run ---- */

static bool has_vendor(const struct backend *backend, struct device *dev, struct status *why)
{
    struct vendor *v = backend->vendor ? backend->vendor->open(dev, why) : NULL;
    if (!backend->vendor)
        status_fail(why, STATUS_UNSUPPORTED, "the %s device has none", backend->ops->name);
    if (v)
        backend->vendor->close(v);
    return v != NULL;
}

static bool begin(const struct kernel_bench *b, const struct kernel_sink *sink, struct bench_run *r,
                  struct status *st)
{
    struct status why = {0}, no_vendor = {0};
    struct kernel_facts f = {0};
    struct device *dev = backend_open(b->device, &b->options, &r->backend, &why, st);
    if (!dev)
        return false;
    const bool ok = b->no_rates || !r->backend->rates ||
                    r->backend->rates(dev, &f.copy_bytes_s, &f.matmul_flops, st);
    r->has_vendor = ok && has_vendor(r->backend, dev, &no_vendor);
    f.variant = r->backend->variant(dev);
    f.vendor = r->has_vendor ? r->backend->vendor->name : NULL;
    f.no_vendor = no_vendor.msg;
    if (ok)
        sink->begin(sink->ctx, &f);
    r->backend->ops->close(dev);
    return ok;
}

bool kernel_bench_run(const struct kernel_bench *b, const struct kernel_sink *sink,
                      struct status *st)
{
    static bool (*const groups[])(const struct bench_run *, struct status *) = {
        bench_products, bench_cache, bench_head, bench_rows, bench_samples, bench_ranks};
    struct bench_run r = {.wanted = b, .sink = sink};
    if (!check_shape(b, st) || !check_op(b, st) || !check_format(b, st) || !check_ranks(b, st) ||
        !check_pair(b, st) || !begin(b, sink, &r, st))
        return false;
    for (int i = 0; i < N_SHAPES; i++) {
        r.shape = &shapes[i];
        if (!wants_shape(b, r.shape, r.backend->ops->host_memory))
            continue;
        for (size_t g = 0; g < sizeof groups / sizeof groups[0]; g++)
            if (!groups[g](&r, st))
                return status_wrap(st, "%s", r.shape->name);
    }
    return true;
}
