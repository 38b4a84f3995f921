/* check.c - prints a checkpoint's header for people. */
#include "engine/check.h"

#include "engine/gguf.h"
#include "engine/model.h"
#include "engine/plan.h"

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
    if (c->rope_scaling > 1)
        buf_printf(out, ", positions divided by %g", (double)c->rope_scaling);
    buf_printf(out, "\n  norm epsilon %g\n", (double)c->norm_eps);
}

static void print_tensors(const struct gguf *g, struct buf *out)
{
    uint64_t n[DT_N] = {0}, n_bytes[DT_N] = {0}, total = 0;
    for (size_t i = 0; i < gguf_n_tensors(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        n[t->dtype]++;
        n_bytes[t->dtype] += t->n_bytes;
        total += t->n_bytes;
    }
    buf_put_str(out, "tensors\n");
    for (int i = 0; i < DT_N; i++)
        if (n[i])
            buf_printf(out, "  %-6s %5llu %10.1f MiB\n", dtype_traits[i].name,
                       (unsigned long long)n[i], (double)n_bytes[i] / (1 << 20));
    buf_printf(out, "  %-6s %5zu %10.1f MiB of a file of %.1f MiB\n", "all", gguf_n_tensors(g),
               (double)total / (1 << 20), (double)gguf_file_bytes(g) / (1 << 20));
    if (gguf_trailing_bytes(g))
        buf_printf(out, "  warning: %zu bytes behind the last tensor are not part of the model\n",
                   gguf_trailing_bytes(g));
}

static void print_string(const struct gguf *g, const char *label, const char *key, struct buf *out)
{
    struct gguf_str s;
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
    struct gguf_str template;
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

static bool print_plan(const struct model_file *f, const struct engine_options *o, struct buf *out,
                       struct status *st)
{
    struct device_options device;
    struct plan plan;
    if (!plan_device_options(o, &device, st))
        return false;
    struct device *dev = cpu_open(&device, st);
    if (!dev)
        return false;
    const bool fits = plan_make(&plan, f, o, cpu_ops(), dev, plan_available_bytes(""), st);
    buf_printf(out, "processor\n  instructions %s\n", cpu_isa(dev));
    if (fits)
        plan_print(&plan, out);
    cpu_ops()->close(dev);
    return fits;
}

bool check_model(const struct engine_options *o, struct buf *out, struct status *st)
{
    struct model_file f;
    if (!model_file_open(&f, o->model_path, st))
        return false;
    print_config(&f, out);
    print_tensors(f.gguf, out);
    print_tokenizer(f.gguf, out);
    const bool fits = print_plan(&f, o, out, st);
    model_file_close(&f);
    return fits;
}
