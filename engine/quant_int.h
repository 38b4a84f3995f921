/* quant_int.h - what the readers of quantized formats share: a matrix, its parts, its codes.
 *
 * A format is a struct quant_format.  Its `configure` reads what config.json says of all matrices;
 * then, for each tensor whose name ends as that of the codes does, its `make` takes the other parts
 * by name, checks them, and sets the row reader.  All integers of a file are little-endian, as the
 * machine is, and may lie unaligned.
 *
 * Thread: pure but for quant_take and quant_make_order, which run at open. */
#ifndef ENGINE_QUANT_INT_H
#define ENGINE_QUANT_INT_H

#include <string.h>

#include "engine/quant_folder.h"
#include "engine/safetensors.h"

enum {
    WANT_F32 = 1 << ELEMENT_F32,
    WANT_FLOAT = 1 << ELEMENT_F32 | 1 << ELEMENT_F16 | 1 << ELEMENT_BF16,
    WANT_FP8 = 1 << ELEMENT_F8_E4M3,
    WANT_I8 = 1 << ELEMENT_I8,
    WANT_U8 = 1 << ELEMENT_U8,
    WANT_I32 = 1 << ELEMENT_I32,
    WANT_I64 = 1 << ELEMENT_I64
};

struct quant_part {
    const uint8_t *at; /* NULL <=> there is none */
    enum element element;
    int64_t rows, cols;
};

/* What config.json says of every matrix. */
struct quant_rules {
    const char *codes;        /* how the name of a matrix's codes ends */
    struct scheme scheme;     /* as far as it is the same for all */
    uint32_t zero_add;        /* to a word of stored zero points */
    bool need_order;          /* act-order: the part that says it must be there */
    const struct cJSON *skip; /* names of modules that stay plain, or NULL */
};

struct quant_matrix {
    struct weight weight; /* what the model sees; its source's ctx is this matrix */
    struct scheme scheme;
    struct str base;      /* X of X.weight: the module */
    char name[160];       /* where no tensor of the file has the weight's */
    struct quant_part codes, scales, zeros;
    struct quant_part nested, nested_map; /* bitsandbytes: scales of scales, and what their codes are */
    float scale_offset;   /* of nested scales */
    float scale_divisor;
    uint32_t zero_add;
    int64_t n_groups;     /* of a row */
    int32_t *order;       /* [2 * cols] or NULL: code i is column order[i]; then, where column c is */
};

struct quant_format {
    const char *method; /* quant_method */
    bool (*configure)(struct quant_rules *r, const struct cJSON *config, struct status *st);
    /* m->scheme is the rules'; m->codes is the part whose name ends in rules->codes.  Sets rows and
     * cols of m->weight, and its source.rows. */
    bool (*make)(struct quant_folder *q, struct quant_matrix *m, struct status *st);
};

extern const struct quant_format quant_bnb, quant_gptq, quant_awq, quant_ct, quant_fp8;

/* ---- config.json ---- */

/* *out = which of `words` (NULL ends them) the text of `key` is, in either case of letters; `absent`
 * when it is missing or null, refused if that is negative. */
bool quant_word(const struct cJSON *config, const char *key, const char *const *words, int absent,
                int *out, struct status *st) MUST_CHECK;
/* True when `key` is missing, null, false, or empty: what it would ask for is not done here. */
bool quant_none(const struct cJSON *config, const char *key, struct status *st) MUST_CHECK;
/* group_size: a positive number, or -1, which is a group of all columns, 0 in a scheme. */
bool quant_group(const struct cJSON *config, int32_t *group, struct status *st) MUST_CHECK;
/* A number of bits that codes have, as the dtype of their scheme. */
bool quant_bits(const struct cJSON *config, const char *key, enum dtype *codes,
                struct status *st) MUST_CHECK;

/* ---- parts ---- */

const struct quant_rules *quant_rules_of(const struct quant_folder *q);
bool quant_has(const struct quant_folder *q, const struct quant_matrix *m, const char *end);
/* Takes the tensor X`end`: no weight of its own from now on.  Missing is refused unless
 * `optional`; so are types outside `want`, a mask of WANT_*. */
bool quant_take(struct quant_folder *q, struct quant_matrix *m, const char *end, unsigned want,
                bool optional, struct quant_part *out, struct status *st) MUST_CHECK;
bool quant_want_shape(const struct quant_matrix *m, const char *end, const struct quant_part *p,
                      int64_t rows, int64_t cols, struct status *st) MUST_CHECK;
/* A part of `n` values, whatever its dimensions. */
bool quant_want_count(const struct quant_matrix *m, const char *end, const struct quant_part *p,
                      int64_t n, struct status *st) MUST_CHECK;
bool quant_want_type(const struct quant_matrix *m, const char *end, const struct quant_part *p,
                     unsigned want, struct status *st) MUST_CHECK;
/* All values of a part of floats. */
bool quant_want_finite(const struct quant_matrix *m, const char *end, const struct quant_part *p,
                       struct status *st) MUST_CHECK;
/* Checks m->scheme against m->weight.cols, and sets n_groups. */
bool quant_set_groups(struct quant_matrix *m, struct status *st) MUST_CHECK;
/* The columns in an order in which groups are consecutive, from the group of each; none where they
 * are already. */
bool quant_make_order(struct quant_matrix *m, const char *end, const struct quant_part *g_idx,
                      struct status *st) MUST_CHECK;
/* X.scales [groups, rows] and X.qzeros [groups, rows / per]: values are rounded as scales are.  Has
 * zero points unless all are the scheme's default. */
bool quant_take_across(struct quant_folder *q, struct quant_matrix *m, int per,
                       struct status *st) MUST_CHECK;

/* ---- reading ---- */

static inline int quant_code_bits(const struct quant_matrix *m)
{
    return 8 / dtype_traits[m->scheme.codes].block;
}

/* Eight codes of 4 bits, the lowest first, to eight bytes. */
static inline uint64_t quant_spread(uint32_t word)
{
    uint64_t x = word;
    x = (x | x << 16) & 0x0000ffff0000ffff;
    x = (x | x << 8) & 0x00ff00ff00ff00ff;
    return (x | x << 4) & 0x0f0f0f0f0f0f0f0f;
}

float quant_float(const struct quant_part *p, int64_t i);

static inline uint32_t quant_word_at(const struct quant_part *p, int64_t i) /* of I32 */
{
    uint32_t w;
    memcpy(&w, p->at + i * 4, sizeof w);
    return w;
}

/* Scales that lie [groups, rows], and [rows, groups], to [n, groups]. */
void quant_scales_across(const struct quant_matrix *m, int64_t first, int64_t n, float *to);
void quant_scales_along(const struct quant_matrix *m, int64_t first, int64_t n, float *to);

/* Zero points packed along rows in [groups, words]; slot[i] is where in a word row i of its rows is. */
void quant_zeros_across(const struct quant_matrix *m, int64_t first, int64_t n,
                        const uint8_t slot[8], int16_t *to);

/* ---- matrices with a byte a code, row by row ---- */

/* Codes of a type in `want`, and X`end`: a scale for each row, or one for all. */
bool quant_make_bytes(struct quant_folder *q, struct quant_matrix *m, unsigned want,
                      const char *end, unsigned scale_want, struct status *st) MUST_CHECK;

#endif
