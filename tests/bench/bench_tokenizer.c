/* bench_tokenizer.c - encodes a file with the tokenizer of a model, GGUF file or folder: ids or
 * speed.
 *
 *     bench_tokenizer MODEL TEXT            MiB/s, the best of several passes
 *     bench_tokenizer --ids MODEL TEXT      one id a line
 *     bench_tokenizer --special MODEL TEXT  the same, special tokens of the text included
 *     bench_tokenizer --split PRE TEXT      where the pre-tokenizer PRE cuts, one end a line
 */
#include "engine/model_text.h"
#include "engine/tok_split.h"
#include "engine/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { PASSES = 7 };

struct text {
    char *at;
    size_t n;
};

static bool read_file(const char *path, struct text *out)
{
    FILE *f = fopen(path, "rb");
    if (!f || fseek(f, 0, SEEK_END) != 0) {
        fprintf(stderr, "cannot read %s\n", path);
        return false;
    }
    out->n = (size_t)ftell(f);
    out->at = malloc(out->n + 1);
    rewind(f);
    bool ok = out->at && fread(out->at, 1, out->n, f) == out->n;
    fclose(f);
    return ok;
}

static int print_split(const char *pre, struct text text)
{
    const struct tok_split *split = tok_split_find(pre, strlen(pre));
    if (!split) {
        fprintf(stderr, "no pre-tokenizer '%s'\n", pre);
        return 1;
    }
    for (size_t at = 0; at < text.n;)
        printf("%zu\n", at = split->next(text.at, text.n, at));
    return 0;
}

/* The thread's own time: other work on the machine disturbs it less than the wall clock. */
static double cpu_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int encode(const struct tokenizer *t, struct text text, bool ids_only, bool special)
{
    const struct encode_options opts = {.parse_special = special};
    struct status st = {0};
    int32_t *ids = malloc((text.n + 1) * sizeof *ids);
    double best = 1e9;
    int64_t n = 0;
    for (int i = 0; ids && i < (ids_only ? 1 : PASSES) && n >= 0; i++) {
        const double start = cpu_now();
        n = tokenizer_encode(t, text.at, text.n, &opts, ids, text.n + 1, &st);
        const double s = cpu_now() - start;
        best = s < best ? s : best;
    }
    if (!ids || n < 0) {
        fprintf(stderr, "encode: %s\n", st.msg);
        return 1;
    }
    for (int64_t i = 0; ids_only && i < n; i++)
        printf("%d\n", ids[i]);
    if (!ids_only)
        printf("%zu bytes, %lld tokens, %.1f MiB/s\n", text.n, (long long)n,
               (double)text.n / best / 1048576.0);
    free(ids);
    return 0;
}

int main(int argc, char **argv)
{
    const char *mode = argc == 4 ? argv[1] : "";
    struct text text = {0};
    if (argc < 3 || argc > 4 || !read_file(argv[argc - 1], &text)) {
        fprintf(stderr, "usage: bench_tokenizer [--ids | --special | --split] MODEL TEXT\n");
        return 1;
    }
    if (strcmp(mode, "--split") == 0)
        return print_split(argv[2], text);
    struct status st = {0};
    struct model_text m;
    const double start = cpu_now();
    if (!model_text_open(&m, argv[argc - 2], &st)) {
        fprintf(stderr, "%s\n", st.msg);
        return 1;
    }
    if (!mode[0])
        printf("open %.1f ms\n", (cpu_now() - start) * 1e3);
    int rc = encode(m.tok, text, mode[0] != 0, strcmp(mode, "--special") == 0);
    model_text_close(&m);
    free(text.at);
    return rc;
}
