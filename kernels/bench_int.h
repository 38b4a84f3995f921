/* bench_int.h - what kernels/bench*.c share: a run, a device and its memory, how a call is timed.
 *
 * Each group of ops opens a device for itself, with the memory that it wants, and closes it: steps
 * are recorded once a shape, of which a device takes so many.
 *
 * Thread: one; of ranks, each has a device of its own. */
#ifndef KERNELS_BENCH_INT_H
#define KERNELS_BENCH_INT_H

#include "kernels/bench.h"

enum { COPIES_MAX = 128, PARTS_MAX = 3, FORMATS_MAX = 24, BLOCK_TOKENS = 16, SEQS_MAX = 256 };

static const float BENCH_EPS = 1e-5f;

struct bench_shape {
    const char *name;
    int hidden, ffn, n_heads, n_kv_heads, head_dim, vocab;
    int head_rows;            /* of the vocabulary that this device has: a share of it, or all */
    int kv_tokens, kv_layers; /* of the cache, on the CPU at most what that can take */
    bool usual;               /* else only by name */
};

static inline int bench_q_width(const struct bench_shape *s)
{
    return s->n_heads * s->head_dim;
}

static inline int bench_kv_width(const struct bench_shape *s) /* of keys, or of values */
{
    return s->n_kv_heads * s->head_dim;
}

static inline int bench_qkv_width(const struct bench_shape *s)
{
    return bench_q_width(s) + 2 * bench_kv_width(s);
}

struct bench_run { /* what is measured, of one shape */
    const struct kernel_bench *wanted;
    const struct backend *backend;
    const struct bench_shape *shape;
    const struct kernel_sink *sink;
    bool has_vendor;
    struct comm *comm, *grid; /* of a rank; else NULL */
};

/* bench.c: is it to be measured?  Both parts of "a.b" may name it; a format, unless one is asked
 * for, where it is a usual one.  "-": what has no format. */
bool bench_wants(const struct bench_run *r, const char *op);
bool bench_wants_format(const struct bench_run *r, const char *format, bool usual);

/* ---- formats: bench_formats.c ---- */

struct bench_format {
    const char *name; /* of a scheme: what scheme_parse takes; else the file's type */
    enum dtype dtype; /* DT_N <=> a scheme */
    bool usual;       /* else only by name, */
    bool in_head;     /*   and of the head, too */
};

extern const struct bench_format bench_formats[]; /* the first is of 16 bits; no name ends them */

struct bench_cache_format {
    const char *name;
    enum dtype dtype; /* DT_N <=> as activations are */
};

enum { CACHE_FORMATS = 3 };
extern const struct bench_cache_format bench_cache_formats[CACHE_FORMATS];

/* Random bytes of n rows of a format, as a file has them; not of a scheme. */
void bench_fill_rows(const struct bench_format *f, void *to, int64_t n, int64_t cols);
/* A source of rows (struct weight_source) of random codes, whose scales are all alike. */
struct bench_codes {
    const struct scheme *scheme;
    int64_t cols;
};
void bench_make_codes(const void *ctx, int64_t first, int64_t n, const struct scheme_rows *to);

/* Random values of deviation sigma; of a 1-byte type, random codes that are numbers. */
void bench_fill(void *to, size_t n_bytes, enum dtype dtype, float sigma);

/* ---- a device: bench_device.c ---- */

struct bench_needs {
    int x_width, y_width;
    bool logits, vendor;
    const struct bench_cache_format *cache; /* NULL = none */
    int cache_layers;                       /* at most */
};

struct bench_device {
    const struct bench_run *run;
    const struct ops *ops;
    struct device *dev;
    const struct bench_shape *shape;
    struct vendor *vendor; /* NULL = not needed, or not there */
    bool on_cpu;
    size_t act_bytes;
    int rows_max, heads_max, kv_tokens_max;
    int rows_wanted;        /* rows, sequences and heads of a call, at most; <= rows_max */
    void *x, *y;            /* [rows_max, x_width] random; [rows_max, y_width] is written */
    float *logits;          /* [heads_max, vocab] */
    float *gain, *inv_freq; /* [widest] ones or so; [head_dim / 2] */
    struct kv_cache kv;
    uint64_t n_shapes;      /* of steps: each is timed alone */
    struct sample_out *out; /* host, [heads_max] */

    int ids_max;        /* token ids are below */
    struct batch batch; /* of the next step; its arrays: */
    int32_t *ids, *positions, *token_seq, *seq_start, *kv_len, *slot, *n_prompt, *table;
    struct batch_block *block;
    struct batch_slot *set;
    struct batch_head *head;
    struct sample_params params; /* of the slots of the next batch, and its heads: */
    int32_t forced;
};

bool bench_device_open(struct bench_device *b, const struct bench_run *r,
                       const struct bench_needs *needs, struct status *st) MUST_CHECK;
void bench_device_close(struct bench_device *b); /* accepts a half-open one */
/* Device memory of [rows_max, width] random activations; with outliers, some columns are large. */
void *bench_take_rows(struct bench_device *b, int width, bool outliers,
                      struct status *st) MUST_CHECK;

/* ---- weights: bench_weights.c ---- */

struct bench_matrix { /* of one format: the parts of a product, and copies of them */
    const struct bench_format *format;
    struct scheme scheme; /* of those that have one */
    bool is_shown;        /* else it is there for the vendor's product alone */
    bool is_held;         /* as it is; else the device makes 16 bits of it */
    size_t n_copies;
    struct tensor w[COPIES_MAX][PARTS_MAX];
};

struct bench_product { /* y = x w^T, of `parts` matrices of n[i] rows; what else a call does is its
                          own */
    int in, parts, n[PARTS_MAX];
};

/* Matrices of the formats that are wanted, of the head's where it is one; the 16-bit one first
 * where the vendor's product is to stand beside them.  The caller frees them; NULL, and st says
 * why. */
struct bench_matrix *bench_matrices(const struct bench_device *b, bool of_head, int *n,
                                    struct status *st) MUST_CHECK;
/* Brings the matrices of all of them to the device. */
bool bench_weights(struct bench_device *b, const struct bench_product *p, struct bench_matrix *m,
                   int n, struct status *st) MUST_CHECK;
double bench_weight_bytes(const struct bench_matrix *m, const struct bench_product *p);

/* ---- steps: bench_steps.c ---- */

/* The next step's batch: seqs sequences of `tokens` tokens, the last of kv_len; heads of the last
 * rows. */
void bench_batch(struct bench_device *b, int seqs, int tokens, int kv_len, int heads);
/* Waits for the other ranks, where there are any. */
bool bench_meet(struct bench_device *b, struct status *st) MUST_CHECK;
/* Seconds of one call of fn, which is told how many came before it. */
bool bench_time(struct bench_device *b, void (*fn)(void *ctx, int i), void *ctx, double *s,
                struct status *st) MUST_CHECK;
/* The same, of a call that t describes, into the sink. */
bool bench_emit(struct bench_device *b, struct kernel_time t, void (*fn)(void *ctx, int i),
                void *ctx, struct status *st) MUST_CHECK;

/* ---- products, and the vendor's beside them: bench_products.c ---- */

struct bench_call { /* a product with one format's weights */
    struct bench_device *b;
    struct bench_product p;
    enum act_kind act;
    bool add, y_f32;
    const struct norm *norm;
    const struct bench_matrix *m;
    const void *x;
    int rows;
};

struct bench_case { /* a product with weights of all formats */
    const char *op;
    const int *counts; /* of rows, 0 ends them; <= COUNTS_MAX */
    int rows_max;
    bool of_head;
    double row_bytes; /* read and written besides the weights, a row */
    void (*batch)(struct bench_device *b, int rows); /* makes the batch of so many */
    void (*fn)(void *call, int i);
};

enum { COUNTS_MAX = 8 };
extern const int bench_row_counts[]; /* 0 ends them */

/* The arguments of call i: its outs side by side in y. */
struct matmul_args bench_matmul_args(const struct bench_call *c, int i);
/* All formats and counts that are wanted, with the vendor's times. */
bool bench_product_case(struct bench_call *c, const struct bench_case *k,
                        struct status *st) MUST_CHECK;

/* ---- the groups: every op of them that is wanted, into the sink ---- */

bool bench_products(const struct bench_run *r, struct status *st) MUST_CHECK; /* bench_products.c */
bool bench_head(const struct bench_run *r, struct status *st) MUST_CHECK;     /* bench_head.c */
bool bench_rows(const struct bench_run *r, struct status *st) MUST_CHECK;     /* bench_rows.c */
bool bench_cache(const struct bench_run *r, struct status *st) MUST_CHECK;    /* bench_cache.c */
bool bench_samples(const struct bench_run *r, struct status *st) MUST_CHECK;  /* bench_rows.c */
bool bench_ranks(const struct bench_run *r, struct status *st) MUST_CHECK;    /* bench_ranks.c */

#endif
