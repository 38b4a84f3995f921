/* check.c - prints a checkpoint's header for people. */
#include "engine/check.h"

#include <stdio.h>
#include <string.h>

#include "engine/gguf.h"
#include "engine/model.h"
#include "engine/model_text.h"
#include "engine/place.h"
#include "engine/plan.h"
#include "engine/quant_load.h"
#include "engine/shard.h"
#include "engine/stages.h"
#include "kernels/backend.h"

enum { IDLE_BYTES_MAX = 512, UNREAD_BYTES_MAX = 1 << 16 };

static void print_window(const struct model_config *c, struct buf *out)
{
    int32_t n = 0;
    for (int32_t il = 0; il < c->n_layers; il++)
        n += c->is_local[il];
    if (n > 0)
        buf_printf(out, "\n  window       %d tokens in %d layers, whose rotary base is %g",
                   c->window, n, (double)c->rope_theta_local);
}

static void print_config(const struct model_file *f, struct buf *out)
{
    const struct model_config *c = &f->cfg;
    buf_printf(out, "model\n  family       %s\n", f->arch->gguf_name);
    buf_printf(out, "  layers       %d\n  width        %d\n", c->n_layers, c->hidden);
    buf_printf(out, "  heads        %d query, %d key, of %d\n", c->n_heads, c->n_kv_heads,
               c->head_dim);
    buf_printf(out, "  feed-forward %d\n", c->ffn);
    buf_printf(out, "  vocabulary   %d, %s\n", c->vocab,
               c->tied ? "output tied to the embedding" : "output of its own");
    buf_printf(out, "  context      %d tokens\n", c->context);
    buf_printf(out, "  rotary       base %g over %d of %d dimensions", (double)c->rope_theta,
               c->rope_dims, c->head_dim);
    if (c->rope_context > 0)
        buf_printf(out, ", slow ones divided by %g beyond %g tokens", (double)c->rope_scaling,
                   (double)c->rope_context);
    else if (c->rope_scaling > 1)
        buf_printf(out, ", positions divided by %g", (double)c->rope_scaling);
    print_window(c, out);
    buf_printf(out, "\n  norm epsilon %g\n", (double)c->norm_eps);
}

/* Quantized matrices by what is the same of them; a folder has few such kinds, or is odd. */
struct kind {
    char text[128];
    uint64_t n, n_bytes;
};
enum { KINDS_MAX = 12 };

static void count_kind(struct kind kinds[KINDS_MAX], const struct weight *w)
{
    char text[sizeof kinds->text];
    int i = 0;
    scheme_describe(w->scheme, text, sizeof text);
    while (i < KINDS_MAX - 1 && kinds[i].n && strcmp(kinds[i].text, text) != 0)
        i++;
    if (i == KINDS_MAX - 1)
        snprintf(text, sizeof text, "others, of other schemes");
    memcpy(kinds[i].text, text, sizeof text);
    kinds[i].n++;
    kinds[i].n_bytes += w->n_bytes;
}

static void print_kinds(const struct kind kinds[KINDS_MAX], struct buf *out)
{
    for (int i = 0; i < KINDS_MAX && kinds[i].n; i++)
        buf_printf(out, "  %-6.*s %5llu %10.1f MiB%s\n", (int)strcspn(kinds[i].text, ","),
                   kinds[i].text, (unsigned long long)kinds[i].n,
                   (double)kinds[i].n_bytes / (1 << 20), strchr(kinds[i].text, ','));
}

static void print_tensors(const struct model_file *f, struct buf *out)
{
    const size_t n_all = model_file_n_weights(f);
    struct kind kinds[KINDS_MAX] = {0};
    uint64_t n[DT_N] = {0}, n_bytes[DT_N] = {0}, total = 0;
    for (size_t i = 0; i < n_all; i++) {
        const struct weight *w = model_file_weight(f, i);
        total += w->n_bytes;
        if (w->scheme) {
            count_kind(kinds, w);
            continue;
        }
        n[w->dtype]++;
        n_bytes[w->dtype] += w->n_bytes;
    }
    buf_put_str(out, "tensors\n");
    for (int i = 0; i < DT_N; i++)
        if (n[i])
            buf_printf(out, "  %-6s %5llu %10.1f MiB\n", dtype_traits[i].name,
                       (unsigned long long)n[i], (double)n_bytes[i] / (1 << 20));
    print_kinds(kinds, out);
    buf_printf(out, "  %-6s %5zu %10.1f MiB", "all", n_all, (double)total / (1 << 20));
    if (f->random)
        buf_put_str(out, "\n  warning: weights are random: answers mean nothing\n");
    else
        buf_printf(out, " in files of %.1f MiB\n", (double)model_file_bytes(f) / (1 << 20));
    if (f->gguf && gguf_trailing_bytes(f->gguf))
        buf_printf(out, "  warning: %zu bytes behind the last tensor are not part of the model\n",
                   gguf_trailing_bytes(f->gguf));
}

static void print_string(const struct gguf *g, const char *label, const char *key, struct buf *out)
{
    struct str s;
    struct status st = {0};
    buf_printf(out, "  %-12s ", label);
    if (!gguf_string(g, key, &s, &st)) {
        buf_put_str(out, st.code == STATUS_OK ? "none\n" : "of a wrong type\n");
        return;
    }
    for (size_t i = 0; i < s.n && i < 64; i++)
        buf_put_char(out, s.at[i] >= ' ' && s.at[i] <= '~' ? s.at[i] : '?');
    buf_put_char(out, '\n');
}

static void print_tokenizer(const struct gguf *g, struct buf *out)
{
    struct gguf_array tokens;
    struct str template;
    struct status st = {0};
    buf_put_str(out, "tokenizer\n");
    print_string(g, "kind", "tokenizer.ggml.model", out);
    print_string(g, "split", "tokenizer.ggml.pre", out);
    if (gguf_array(g, "tokenizer.ggml.tokens", GGUF_STRINGS, &tokens, &st))
        buf_printf(out, "  tokens       %zu\n", tokens.n);
    else
        buf_put_str(out, "  tokens       none: no text can be served\n");
    st = (struct status){0};
    if (gguf_string(g, "tokenizer.chat_template", &template, &st))
        buf_printf(out, "  template     %zu bytes\n", template.n);
    else
        buf_put_str(out, "  template     none: no chat can be served\n");
}

/* A folder's tokenizer is read whole, and is what the daemon would have. */
static void print_folder_text(const char *path, struct buf *out)
{
    struct model_text text;
    struct status st = {0};
    buf_put_str(out, "tokenizer\n");
    if (!model_text_open(&text, path, &st)) {
        buf_printf(out, "  none: no text can be served: %s\n", st.msg);
        return;
    }
    buf_printf(out, "  split        %s\n  tokens       %d\n", tokenizer_split(text.tok),
               tokenizer_vocab(text.tok));
    if (text.template)
        buf_printf(out, "  template     %zu bytes\n", text.n_template);
    else
        buf_put_str(out, "  template     none: no chat can be served\n");
    model_text_close(&text);
}

static void print_idle(const struct engine_options *o, const char *device, int n_ranks,
                       struct buf *out)
{
    struct buf names;
    buf_init(&names, IDLE_BYTES_MAX);
    check_idle_options(o, device, n_ranks, &names);
    if (names.n > 0)
        buf_printf(out, "  warning: options without effect on %s, %d rank%s: %s\n", device, n_ranks,
                   n_ranks == 1 ? "" : "s", names.at);
    buf_close(&names);
}

/* What a rank's plan is made of. */
struct grid {
    const struct engine_options *o;
    const struct backend *backend;
    const struct device *dev;
    int n_stages, n_tensor;
    struct plan_memory memory[COMM_RANKS_MAX];
    struct placement placement; /* the first rank's, as when it runs */
};

static bool open_file(struct model_file *f, const struct engine_options *o, struct status *st)
{
    return o->random_weights ? model_file_open_random(f, o->model_path, st)
                             : model_file_open(f, o->model_path, st);
}

/* The part that rank number `tensor` of each stage has; closed by model_file_close. */
static bool open_part(struct model_file *f, const struct grid *g, int tensor, struct status *st)
{
    return open_file(f, g->o, st) && shard_model(f, tensor, g->n_tensor, st) &&
           quant_load_apply(f, g->o, st);
}

static bool plan_one(struct plan *p, const struct grid *g, const struct model_file *f, int rank,
                     struct plan_rank *out, struct status *st)
{
    struct model_file view;
    if (!place_view(&view, f, &g->placement, rank / g->n_tensor, st))
        return false;
    const bool fits = plan_make(p, &view, g->o, g->backend->ops, g->dev, g->memory[rank], st);
    if (fits)
        *out = plan_rank(p, &view);
    place_view_close(&view);
    return fits;
}

/* The ranks of all stages that have the same part of each layer. */
static bool plan_part(struct plan *first, struct grid *g, int tensor, struct plan_rank *ranks,
                      struct status *st)
{
    struct model_file f = {0};
    struct plan p;
    bool fits = open_part(&f, g, tensor, st);
    if (fits && tensor == 0)
        fits = stages_place(&g->placement, &f, g->o, g->backend->ops, g->dev, g->memory,
                            g->n_stages, g->n_tensor, st);
    for (int s = 0; fits && s < g->n_stages; s++) {
        const int rank = s * g->n_tensor + tensor;
        fits = plan_one(rank == 0 ? first : &p, g, &f, rank, &ranks[rank], st);
    }
    model_file_close(&f);
    return fits;
}

/* All have as many blocks as the one that has the fewest. */
static int32_t least_blocks(const struct plan_rank *ranks, int n)
{
    int32_t least = ranks[0].n_blocks;
    for (int i = 1; i < n; i++)
        least = ranks[i].n_blocks < least ? ranks[i].n_blocks : least;
    return least;
}

static bool plan_all(struct plan *first, struct grid *g, struct plan_rank *ranks, struct status *st)
{
    for (int i = 0; i < g->n_tensor; i++)
        if (!plan_part(first, g, i, ranks, st))
            return false;
    return true;
}

/* Each rank's plan; the first's is printed whole. */
static bool print_rank_plans(struct grid *g, struct buf *out, struct status *st)
{
    struct plan_rank ranks[COMM_RANKS_MAX];
    struct plan first;
    struct engine_options agreed = *g->o;
    const int n = g->n_stages * g->n_tensor;
    if (!plan_all(&first, g, ranks, st))
        return false;
    const char *kv_from = first.kv_from;
    agreed.kv_blocks = least_blocks(ranks, n);
    g->o = &agreed;
    if (!plan_all(&first, g, ranks, st))
        return false;
    first.kv_from = kv_from;
    plan_print(&first, out);
    plan_print_ranks(ranks, n, out);
    return true;
}

static bool print_plan(const struct model_file *f, const struct engine_options *o, struct buf *out,
                       struct status *st)
{
    struct device_options options;
    struct status against_cuda;
    struct grid g = {.o = o, .n_tensor = o->tensor_parallel > 1 ? o->tensor_parallel : 1};
    struct plan plan;
    if (!plan_device_options(f, o, &options, st) || !stages_choose(o, &g.n_stages, st))
        return false;
    struct device *dev = backend_open(o->device, &options, &g.backend, &against_cuda, st);
    if (!dev)
        return false;
    g.dev = dev;
    plan_print_device(g.backend, dev, &against_cuda, out);
    const int n = g.n_stages * g.n_tensor;
    print_idle(o, g.backend->ops->name, n, out);
    bool fits = n <= COMM_RANKS_MAX ? stages_memory(g.memory, g.backend, dev, o, n, st)
                                    : status_fail(st, STATUS_BAD_INPUT, "%d ranks are too many", n);
    if (fits && n > 1) {
        fits = print_rank_plans(&g, out, st);
    } else if (fits) {
        fits = plan_make(&plan, f, o, g.backend->ops, dev, g.memory[0], st);
        if (fits)
            plan_print(&plan, out);
    }
    g.backend->ops->close(dev);
    return fits;
}

void check_idle_options(const struct engine_options *o, const char *device, int n_ranks,
                        struct buf *names)
{
    plan_idle_options(o, device, n_ranks, names);
}

bool check_options(const struct engine_options *o, struct status *st)
{
    struct quant_choice c;
    uint64_t cap[COMM_RANKS_MAX];
    int n_caps;
    return quant_choice_read(&c, o, st) && place_caps_read(o->max_memory, cap, &n_caps, st);
}

static bool open_whole(struct model_file *f, const struct engine_options *o, struct status *st)
{
    if (!open_file(f, o, st))
        return false;
    if (quant_load_apply(f, o, st))
        return true;
    model_file_close(f);
    return false;
}

bool check_fits(const struct engine_options *o, struct status *st)
{
    struct model_file f;
    struct buf unread;
    if (!open_whole(&f, o, st))
        return false;
    buf_init(&unread, UNREAD_BYTES_MAX);
    const bool fits = print_plan(&f, o, &unread, st);
    buf_close(&unread);
    model_file_close(&f);
    return fits;
}

bool check_model(const struct engine_options *o, struct buf *out, struct status *st)
{
    struct model_file f;
    if (!open_whole(&f, o, st))
        return false;
    print_config(&f, out);
    print_tensors(&f, out);
    quant_load_print(&f, out);
    if (f.gguf)
        print_tokenizer(f.gguf, out);
    else
        print_folder_text(o->model_path, out);
    const bool fits = print_plan(&f, o, out, st);
    model_file_close(&f);
    return fits;
}
