/* bench_quality.c - what options cost in quality: perplexity, and divergence from the reference.
 *
 *     bench_quality MODEL IDS N [VARIANT...]
 *
 * The reference is MODEL with --cpu-precision exact and --kv-dtype f32.  A variant is options and
 * their values, `NAME=VALUE[,NAME=VALUE...]`, of model (a path), precision, cpu-isa, kv-dtype,
 * quantize and quantize-head.  IDS is a file with a line `ids N N N ...` (tests/golden/ppl), of
 * which the first N tokens are read, in steps of 256.  A line for each variant: perplexity and its
 * ratio to the reference's, mean and largest KL divergence from it (nats), how often the most
 * likely token is the same, and the bytes of the weights. */
#include "tests/unit/engine/bare.h"

enum { STEP = 256, TOKENS_MAX = 1 << 16 };

struct text {
    int32_t *ids;
    int32_t n;
};

static void fail(const char *what, const char *which)
{
    fprintf(stderr, "bench_quality: %s: %s\n", what, which);
    exit(2);
}

static struct text read_ids(const char *path, int32_t n)
{
    struct text t = {.ids = calloc(TOKENS_MAX, sizeof *t.ids)};
    FILE *f = fopen(path, "r");
    char word[64];
    bool found = false;
    if (!f || !t.ids)
        fail("cannot read", path);
    while (!found && fscanf(f, "%63s", word) == 1)
        found = strcmp(word, "ids") == 0;
    while (found && t.n < n && fscanf(f, "%d", &t.ids[t.n]) == 1)
        t.n++;
    fclose(f);
    if (t.n != n)
        fail("too few ids", path);
    return t;
}

static void set_option(struct engine_options *o, const char *name, const char *value)
{
    if (strcmp(name, "model") == 0)
        o->model_path = value;
    else if (strcmp(name, "precision") == 0)
        o->cpu_precision = value;
    else if (strcmp(name, "cpu-isa") == 0)
        o->cpu_isa = value;
    else if (strcmp(name, "kv-dtype") == 0)
        o->kv_dtype = value;
    else if (strcmp(name, "quantize") == 0)
        o->quantize = value;
    else if (strcmp(name, "quantize-head") == 0)
        o->quantize_head = value;
    else
        fail("no such option", name);
}

/* Cuts `text` at its commas and equals signs. */
static void set_options(struct engine_options *o, char *text)
{
    char *rest = NULL;
    for (char *at = strtok_r(text, ",", &rest); at; at = strtok_r(NULL, ",", &rest)) {
        char *value = strchr(at, '=');
        if (!value)
            fail("want NAME=VALUE, found", at);
        *value = 0;
        set_option(o, at, value + 1);
    }
}

static struct engine_options reference(const char *model, int32_t n)
{
    return (struct engine_options){.model_path = model,
                                   .cpu_precision = "exact",
                                   .kv_dtype = "f32",
                                   .device = "cpu",
                                   .seqs_max = 1,
                                   .step_tokens_max = STEP,
                                   .context_max = n,
                                   .kv_blocks = (n + 15) / 16,
                                   .block_tokens = 16};
}

struct tally {
    double nll_reference, nll, kl, worst;
    int n, n_same;
};

static void add_row(struct tally *t, const float *p, const float *q, int vocab, int32_t next)
{
    const double kl = logits_divergence(p, q, vocab);
    t->nll_reference += logits_log_sum(p, vocab) - (double)p[next];
    t->nll += logits_log_sum(q, vocab) - (double)q[next];
    t->kl += kl;
    t->worst = fmax(t->worst, kl);
    t->n_same += logits_largest(p, vocab) == logits_largest(q, vocab);
    t->n++;
}

static struct tally compare(struct bare *a, struct bare *b, const struct text *text)
{
    struct tally t = {0};
    for (int32_t from = 0; from < text->n; from += STEP) {
        const int32_t n = text->n - from < STEP ? text->n - from : STEP;
        bare_forward(a, text->ids, from, n);
        bare_forward(b, text->ids, from, n);
        for (int32_t i = 0; i < n && from + i + 1 < text->n; i++) {
            decoder_head(&a->decoder, i, 1);
            decoder_head(&b->decoder, i, 1);
            add_row(&t, a->decoder.logits, b->decoder.logits, a->model.cfg.vocab,
                    text->ids[from + i + 1]);
        }
        bare_end(a, n);
        bare_end(b, n);
    }
    return t;
}

static void run(const char *model, const struct text *text, char *variant)
{
    struct engine_options as_a = reference(model, text->n), as_b = as_a;
    const char *name = strdup(variant);
    struct bare a, b;
    set_options(&as_b, variant);
    bare_open(&a, &as_a);
    bare_open(&b, &as_b);
    if (a.model.cfg.vocab != b.model.cfg.vocab)
        fail("another vocabulary", name);
    const struct tally t = compare(&a, &b, text);
    printf("%-44s %10.5f %+8.3f %% %9.6f %8.4f %6.2f %% %9.1f\n", name, exp(t.nll / t.n),
           100 * expm1((t.nll - t.nll_reference) / t.n), t.kl / t.n, t.worst,
           100.0 * t.n_same / t.n, (double)b.plan.weight_bytes / (1 << 20));
    fflush(stdout);
    bare_close(&a);
    bare_close(&b);
}

int main(int argc, char **argv)
{
    if (argc < 5)
        fail("want", "MODEL IDS N VARIANT...");
    const int32_t n = atoi(argv[3]);
    if (n < 2 || n > TOKENS_MAX)
        fail("want 2 to 65536 tokens, found", argv[3]);
    const struct text text = read_ids(argv[2], n);
    printf("%-44s %10s %10s %9s %8s %8s %9s\n", "variant", "perplexity", "change", "mean KL",
           "largest", "same top", "MiB");
    for (int i = 4; i < argc; i++)
        run(argv[1], &text, argv[i]);
    free(text.ids);
    return 0;
}
