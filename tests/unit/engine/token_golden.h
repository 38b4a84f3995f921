/* token_golden.h - reads tests/golden/tokens/: the sample, and lines "end count hash" about it. */
#ifndef TESTS_TOKEN_GOLDEN_H
#define TESTS_TOKEN_GOLDEN_H

#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum { GOLDEN_SAMPLE_MAX = 1 << 20 };

struct golden {
    char *sample;
    size_t n_sample;
    FILE *lines;
    size_t first, end; /* the piece of this line */
    int64_t count;
    uint64_t hash;
};

static inline int golden_open(struct golden *g, const char *name)
{
    char path[256];
    *g = (struct golden){.sample = malloc(GOLDEN_SAMPLE_MAX)};
    FILE *f = fopen("tests/golden/tokens/sample.bin", "rb");
    if (!f || !g->sample)
        return 0;
    g->n_sample = fread(g->sample, 1, GOLDEN_SAMPLE_MAX, f);
    fclose(f);
    snprintf(path, sizeof path, "tests/golden/tokens/%s.txt", name);
    g->lines = fopen(path, "r");
    return g->lines != NULL;
}

static inline int golden_next(struct golden *g)
{
    g->first = g->end;
    return fscanf(g->lines, "%zu %" SCNd64 " %" SCNx64, &g->end, &g->count, &g->hash) == 3 &&
           g->end <= g->n_sample;
}

static inline void golden_close(struct golden *g)
{
    if (g->lines)
        fclose(g->lines);
    free(g->sample);
}

static const uint64_t golden_hash_start = 0xCBF29CE484222325u;

static inline uint64_t golden_hash(uint64_t h, uint64_t value)
{
    return (h ^ value) * 0x100000001B3u;
}

#endif
