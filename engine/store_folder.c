/* store_folder.c - lists what the new checkpoint holds, and makes it weight by weight. */
#include "engine/store_folder.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/parallel.h"
#include "engine/engine.h"
#include "engine/model.h"
#include "engine/quant_load.h"
#include "engine/store_format.h"
#include "engine/store_place.h"
#include "engine/store_texts.h"
#include "kernels/half.h"

enum {
    NAME_BYTES = 256,
    VALUES_PER_PART = 1 << 20,
    COPY_BYTES = 4 << 20,
    KEPT_BYTES_MAX = 1 << 20,
};

static const uint64_t SHARD_BYTES = 4000000000u;
static const char weight_end[] = ".weight";

struct item { /* a weight of the new checkpoint */
    const struct weight *from;
    const struct scheme *scheme; /* NULL: stays as it is */
    bool is_vector;
    char name[NAME_BYTES];
    struct quant_source source; /* also of one that stays, when its rows change places */
    _Atomic int fault;
    int64_t first_tensor; /* of its parts in the output */
};

struct store {
    const struct store_options *o;
    struct model_file f;
    struct quant_choice choice;
    struct item *item; /* [n] */
    size_t n;
    struct buf kept; /* linear modules that are not quantized, for store_config */
    struct safetensors_out *out;
    struct store_place place;
    uint64_t n_done, n_total; /* bytes of the source */
};

/* ---- options ---- */

static bool check_head(struct store *s, struct status *st)
{
    if (!s->choice.has_head)
        return true;
    if (strcmp(s->o->head, s->o->scheme) != 0)
        return status_fail(st, STATUS_UNSUPPORTED,
                           "head: want none or %s, as the layers, found %.64s", s->o->scheme,
                           s->o->head);
    return !s->f.cfg.tied ||
           status_fail(st, STATUS_UNSUPPORTED,
                       "head: the output of this model is its embedding, which stays as it is");
}

static bool read_choice(struct store *s, struct status *st)
{
    const struct engine_options o = {
        .quantize = s->o->scheme, .quantize_head = s->o->head, .quantize_skip = s->o->skip};
    if (!quant_choice_read(&s->choice, &o, st))
        return false;
    if (!s->choice.has_layers)
        return status_fail(st, STATUS_BAD_INPUT, "which scheme?");
    if (!check_head(s, st))
        return false;
    return quant_choice_check(&s->choice, &s->f, st) || status_wrap(st, "skip");
}

/* ---- what there is ---- */

/* [n] what each weight of the file is to the model; NULL where it is nothing. */
static const struct bound **map_bound(const struct store *s, size_t n)
{
    const struct bound **map = calloc(n + 1, sizeof(const struct bound *));
    for (size_t i = 0; map && i < s->f.n_bound; i++)
        map[s->f.bound[i].src - model_file_weight(&s->f, 0)] = &s->f.bound[i];
    return map;
}

static bool name_item(const struct store *s, struct item *it, const struct bound *b,
                      struct status *st)
{
    int n;
    if (!s->f.gguf)
        n = snprintf(it->name, NAME_BYTES, "%.*s", (int)it->from->name.n, it->from->name.at);
    else
        n = b->rule->hf ? model_name(b->rule->hf, b->il, it->name, NAME_BYTES) : -1;
    return (n >= 0 && n < NAME_BYTES) ||
           status_fail(st, STATUS_UNSUPPORTED, "tensor %s: no name for it in a folder",
                       str_show(it->from->name).text);
}

/* Rows of q and k that lie as pairs in a GGUF file, and as halves in a folder. */
static bool is_paired(const struct store *s, const struct bound *b)
{
    const enum slot slot = b ? b->rule->slot : W_N;
    return s->f.gguf && s->f.arch->gguf_rope == ROPE_ADJACENT && s->f.arch->hf_rope == ROPE_NEOX &&
           (slot == W_Q || slot == W_K || slot == W_Q_BIAS || slot == W_K_BIAS);
}

static bool keep_name(struct store *s, const struct item *it, const struct bound *b)
{
    const size_t n = strlen(it->name), n_end = sizeof weight_end - 1;
    if (!b || b->rule->rows == DIM_ONE || b->rule->slot == W_EMBED || it->scheme)
        return true;
    return n > n_end && buf_put(&s->kept, it->name, n - n_end) && buf_put_char(&s->kept, '\0');
}

static bool add_item(struct store *s, const struct weight *w, const struct bound *b,
                     struct status *st)
{
    struct item *it = &s->item[s->n];
    static const struct scheme none = {.codes = DT_INT8};
    it->from = w;
    it->is_vector = b ? b->rule->rows == DIM_ONE : w->rows == 1;
    /* The embedding may be what `head` names when weights are loaded, but has no layout here. */
    it->scheme = b && b->rule->slot != W_EMBED ? quant_choice_of(&s->choice, b) : NULL;
    if (!name_item(s, it, b, st) ||
        !quant_source_init(&it->source, w, it->scheme ? it->scheme : &none, &it->fault, st))
        return false;
    if (is_paired(s, b)) {
        if (it->is_vector)
            return status_fail(st, STATUS_UNSUPPORTED,
                               "tensor %s: want q and k without biases, found one",
                               str_show(w->name).text);
        it->source.paired = s->f.cfg.head_dim;
    }
    s->n_total += w->n_bytes;
    s->n++;
    return keep_name(s, it, b) || status_fail(st, STATUS_BUSY, "no memory for names");
}

/* A tied output has no weight of its own, and is a linear module that stays. */
static bool keep_tied(struct store *s)
{
    const struct tensor_rule *rule = s->f.arch->tensors[0];
    if (!s->f.cfg.tied)
        return true;
    while (rule->slot != W_LM_HEAD)
        rule++;
    return buf_put(&s->kept, rule->hf, strlen(rule->hf) - (sizeof weight_end - 1)) &&
           buf_put_char(&s->kept, '\0');
}

static bool list_items(struct store *s, struct status *st)
{
    const size_t n = model_file_n_weights(&s->f);
    const struct bound **bound = map_bound(s, n);
    s->item = calloc(n + 1, sizeof *s->item);
    bool ok = (s->item && bound) || status_fail(st, STATUS_BUSY, "no memory for %zu weights", n);
    for (size_t i = 0; ok && i < n; i++)
        if (!bound[i] || bound[i]->rule->hf) /* without: it follows from config.json */
            ok = add_item(s, model_file_weight(&s->f, i), bound[i], st);
    free(bound);
    if (!ok)
        return false;
    return keep_tied(s) || status_fail(st, STATUS_BUSY, "no memory for names");
}

/* ---- its tensors ---- */

static enum element plain_type(enum dtype dtype)
{
    return dtype == DT_F32 ? ELEMENT_F32 : dtype == DT_BF16 ? ELEMENT_BF16 : ELEMENT_F16;
}

static struct st_tensor plain_tensor(const struct item *it)
{
    const struct weight *w = it->from;
    return it->is_vector ? (struct st_tensor){plain_type(w->dtype), 1, {w->rows * w->cols}}
                         : (struct st_tensor){plain_type(w->dtype), 2, {w->rows, w->cols}};
}

static bool add_parts(struct store *s, struct item *it)
{
    struct store_part part[STORE_PARTS_MAX];
    const int n = store_parts(it->scheme, it->from->rows, it->from->cols, part);
    const int n_module = (int)(strlen(it->name) - (sizeof weight_end - 1));
    for (int i = 0; i < n; i++) {
        char name[NAME_BYTES + 64];
        snprintf(name, sizeof name, "%.*s%s", n_module, it->name, part[i].end);
        const int64_t at = safetensors_out_add(s->out, name, &part[i].tensor, i > 0);
        if (at < 0)
            return false;
        if (i == 0)
            it->first_tensor = at;
    }
    return true;
}

static bool add_tensors(struct store *s, struct status *st)
{
    s->out = safetensors_out_make(s->o->shard_bytes ? s->o->shard_bytes : SHARD_BYTES);
    bool ok = s->out != NULL;
    for (size_t i = 0; ok && i < s->n; i++) {
        struct item *it = &s->item[i];
        const struct st_tensor plain = plain_tensor(it);
        if (it->scheme)
            ok = add_parts(s, it);
        else
            ok = (it->first_tensor = safetensors_out_add(s->out, it->name, &plain, false)) >= 0;
    }
    return ok || status_fail(st, STATUS_BUSY, "no memory for %zu weights", s->n);
}

/* ---- writing one weight ---- */

/* A weight on its way; its parts are done by several threads. */
struct job {
    const struct store *s;
    const struct item *it;
    int64_t rows_per_part;
    atomic_flag failing; /* the first to fail fills st */
    _Atomic bool failed;
    struct status st;
};

static bool is_stopped(const struct store *s)
{
    return s->o->stop && *s->o->stop;
}

static void fail_job(struct job *j, const struct status *why)
{
    if (!atomic_flag_test_and_set(&j->failing))
        j->st = *why;
    atomic_store(&j->failed, true);
}

static bool put_part(void *ctx, int part, uint64_t at, const void *bytes, size_t n)
{
    struct job *j = ctx;
    struct status st = {0};
    if (safetensors_out_put(j->s->out, j->it->first_tensor + part, at, bytes, n, &st))
        return true;
    fail_job(j, &st);
    return false;
}

static void fail_memory(struct job *j)
{
    struct status st = {0};
    status_fail(&st, STATUS_BUSY, "no memory to quantize %s", j->it->name);
    fail_job(j, &st);
}

static int64_t rows_of_part(const struct job *j, int64_t part)
{
    const int64_t first = part * j->rows_per_part, rows = j->it->from->rows;
    return rows - first < j->rows_per_part ? rows - first : j->rows_per_part;
}

static void make_rows(void *ctx, int64_t part)
{
    struct job *j = ctx;
    const struct quant_source *q = &j->it->source;
    const struct store_sink to = {put_part, j};
    struct store_scratch scratch;
    const int64_t n = rows_of_part(j, part);
    if (atomic_load(&j->failed) || is_stopped(j->s))
        return;
    if (store_scratch_make(&scratch, q, n))
        store_rows(q, part * j->rows_per_part, n, &scratch, &to);
    else
        fail_memory(j);
    store_scratch_close(&scratch);
}

static void narrow_row(enum element type, const float *row, int64_t cols, void *to)
{
    uint16_t *h = to;
    if (type == ELEMENT_F32)
        memcpy(to, row, (size_t)cols * sizeof *row);
    else
        for (int64_t i = 0; i < cols; i++)
            h[i] = type == ELEMENT_F16 ? f32_to_f16(row[i]) : f32_to_bf16(row[i]);
}

/* Rows that stay numbers and change type or places. */
static void change_rows(void *ctx, int64_t part)
{
    struct job *j = ctx;
    const struct weight *w = j->it->from;
    const enum element type = plain_type(w->dtype);
    const size_t row_bytes = (size_t)w->cols * (type == ELEMENT_F32 ? 4 : 2);
    const int64_t first = part * j->rows_per_part, n = rows_of_part(j, part);
    float *row = malloc((size_t)w->cols * sizeof *row);
    char *bytes = malloc((size_t)n * row_bytes);
    if (!row || !bytes)
        fail_memory(j);
    for (int64_t i = 0; row && bytes && i < n; i++) {
        quant_source_floats(&j->it->source, first + i, row);
        narrow_row(type, row, w->cols, bytes + (size_t)i * row_bytes);
    }
    if (row && bytes)
        put_part(j, 0, (uint64_t)first * row_bytes, bytes, (size_t)n * row_bytes);
    free(row);
    free(bytes);
}

static void copy_bytes(void *ctx, int64_t part)
{
    struct job *j = ctx;
    const struct weight *w = j->it->from;
    const size_t at = (size_t)part * COPY_BYTES;
    const size_t n = w->n_bytes - at < COPY_BYTES ? w->n_bytes - at : COPY_BYTES;
    if (!atomic_load(&j->failed) && !is_stopped(j->s))
        put_part(j, 0, at, (const char *)w->source.at + at, n);
}

static int64_t choose_rows(const struct weight *w)
{
    const int64_t n = VALUES_PER_PART / w->cols / STORE_ROWS_ALIGN * STORE_ROWS_ALIGN;
    return n > 0 ? n : STORE_ROWS_ALIGN;
}

static bool is_copied(const struct item *it)
{
    return !it->scheme && !it->source.paired && it->from->dtype <= DT_BF16;
}

static bool write_item(struct store *s, struct item *it, struct status *st)
{
    struct job j = {
        .s = s, .it = it, .rows_per_part = choose_rows(it->from), .failing = ATOMIC_FLAG_INIT};
    const struct store_sink to = {put_part, &j};
    const int64_t n_rows = (it->from->rows + j.rows_per_part - 1) / j.rows_per_part;
    const int n_threads = s->o->n_threads;
    if (is_copied(it)) {
        parallel_for(n_threads, (int64_t)((it->from->n_bytes + COPY_BYTES - 1) / COPY_BYTES),
                     copy_bytes, &j);
    } else if (!it->scheme) {
        parallel_for(n_threads, n_rows, change_rows, &j);
    } else {
        if (!quant_source_prepare(&it->source, n_threads, st))
            return false;
        if (store_fixed(&it->source, &to))
            parallel_for(n_threads, n_rows, make_rows, &j);
    }
    if (atomic_load(&j.failed)) {
        *st = j.st;
        return false;
    }
    quant_source_close(&it->source);
    return quant_source_check(&it->source, st);
}

static bool write_weights(struct store *s, struct status *st)
{
    for (size_t i = 0; i < s->n; i++) {
        if (!write_item(s, &s->item[i], st))
            return false;
        if (is_stopped(s))
            return status_fail(st, STATUS_CANCELLED, "stopped; nothing is left");
        s->n_done += s->item[i].from->n_bytes;
        model_file_release(&s->f);
        if (s->o->progress)
            s->o->progress(s->o->ctx, s->n_done, s->n_total);
    }
    return true;
}

/* ---- all of it ---- */

/* Norms that the two kinds of file hold differently are not rewritten. */
static bool check_family(const struct store *s, struct status *st)
{
    return !s->f.gguf || s->f.arch->hf_gain == 0 ||
           status_fail(st, STATUS_UNSUPPORTED,
                       "want a folder: the norms of %s are others in a GGUF file",
                       s->f.arch->gguf_name);
}

static bool prepare(struct store *s, struct status *st)
{
    return store_place_check(s->o->to, st) && store_texts_check(s->o->from, s->o->texts, st) &&
           model_file_open(&s->f, s->o->from, st) && check_family(s, st) &&
           (!s->f.gguf || store_texts_match(s->o->texts, &s->f, st)) && read_choice(s, st) &&
           list_items(s, st) && add_tensors(s, st);
}

static bool write_folder(struct store *s, struct status *st)
{
    const char *texts = s->o->texts ? s->o->texts : s->o->from;
    struct buf config;
    buf_init(&config, KEPT_BYTES_MAX);
    if (buf_put_char(&s->kept, '\0'))
        store_config(&s->choice.layers, s->kept.at, &config);
    const bool ok = !config.failed && !s->kept.failed
                        ? store_texts_put(texts, s->place.fd, config.at, config.n, st)
                        : status_fail(st, STATUS_BUSY, "no memory for config.json");
    buf_close(&config);
    return ok && safetensors_out_open(s->out, s->place.fd, st) && write_weights(s, st) &&
           safetensors_out_finish(s->out, s->place.fd, st) && store_place_move(&s->place, st);
}

static void summarize(const struct store *s, struct buf *summary)
{
    char text[128];
    size_t n_quantized = 0;
    for (size_t i = 0; i < s->n; i++)
        n_quantized += s->item[i].scheme != NULL;
    buf_printf(summary, "%s: %zu of %zu weights in %s; %.1f MiB, from %.1f\n", s->o->to,
               n_quantized, s->n, scheme_describe(&s->choice.layers, text, sizeof text),
               (double)safetensors_out_bytes(s->out) / (1 << 20), (double)s->n_total / (1 << 20));
}

bool store_folder(const struct store_options *o, struct buf *summary, struct status *st)
{
    struct store s = {.o = o, .place.fd = -1};
    buf_init(&s.kept, KEPT_BYTES_MAX);
    const bool ok =
        prepare(&s, st) && store_place_make(&s.place, o->to, st) && write_folder(&s, st);
    if (ok)
        summarize(&s, summary);
    store_place_close(&s.place);
    safetensors_out_close(s.out);
    for (size_t i = 0; i < s.n; i++)
        quant_source_close(&s.item[i].source);
    free(s.item);
    buf_close(&s.kept);
    model_file_close(&s.f);
    return ok;
}
