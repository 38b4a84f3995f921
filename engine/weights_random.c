#include "engine/weights_random.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kernels/half.h"

enum { VALUE_BYTES = 2, START_BYTES = 4096 /* weights begin at a multiple of it */ };

static const size_t PATTERN_BYTES = (size_t)64 << 20, GAINS_BYTES = (size_t)1 << 20;
static const float SIGMA = 0.02f;

struct weights_random {
    struct weight *weight; /* [n_max] */
    size_t n, n_max, n_bytes;
    enum dtype dtype;
    int fd;          /* GAINS_BYTES of gains, then the pattern */
    uint16_t *gains; /* its first part, mapped */
    char *map;       /* its second, again and again */
    size_t map_bytes;
};

static uint64_t mix(uint64_t *state) /* splitmix64 */
{
    uint64_t z = *state += 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

/* The sum of four uniform numbers, scaled to a deviation of 1; never zero. */
static float draw(uint64_t *state)
{
    const uint64_t bits = mix(state);
    const int32_t sum = (int32_t)(bits & 0xffff) + (int32_t)(bits >> 16 & 0xffff) +
                        (int32_t)(bits >> 32 & 0xffff) + (int32_t)(bits >> 48);
    const float centred = (float)(2 * (sum - 131070) + 1); /* odd */
    return centred * (0.8660254f / 65536);
}

static void fill(uint16_t *to, size_t n, enum dtype dtype, float mean, uint64_t seed)
{
    for (size_t i = 0; i < n; i++) {
        const float v = mean + SIGMA * draw(&seed);
        to[i] = dtype == DT_F16 ? f32_to_f16(v) : f32_to_bf16(v);
    }
}

/* A piece of the file at `at`, or anywhere. */
static void *map_part(const struct weights_random *w, void *at, size_t from, size_t n_bytes)
{
    return mmap(at, n_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | (at ? MAP_FIXED : 0), w->fd,
                (off_t)from);
}

static bool map_pattern(struct weights_random *w)
{
    char *map = mmap(NULL, w->map_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED)
        return false;
    w->map = map;
    for (size_t at = 0; at < w->map_bytes; at += PATTERN_BYTES)
        if (map_part(w, map + at, GAINS_BYTES, PATTERN_BYTES) == MAP_FAILED)
            return false;
    return true;
}

static bool map_all(struct weights_random *w)
{
    w->fd = memfd_create("random weights", MFD_CLOEXEC);
    if (w->fd < 0 || ftruncate(w->fd, (off_t)(GAINS_BYTES + PATTERN_BYTES)) != 0)
        return false;
    void *gains = map_part(w, NULL, 0, GAINS_BYTES);
    if (gains == MAP_FAILED)
        return false;
    w->gains = gains;
    return map_pattern(w);
}

struct weights_random *weights_random_open(enum dtype dtype, size_t n_max, size_t bytes_max,
                                           struct status *st)
{
    struct weights_random *w = calloc(1, sizeof *w);
    struct weight *weight = calloc(n_max + 1, sizeof *weight);
    if (!w || !weight) {
        free(w);
        free(weight);
        status_fail(st, STATUS_BUSY, "no memory for %zu weights", n_max);
        return NULL;
    }
    /* A weight that begins at the pattern's end still fits. */
    const size_t n_patterns = (bytes_max + PATTERN_BYTES - 1) / PATTERN_BYTES + 1;
    *w = (struct weights_random){.weight = weight,
                                 .n_max = n_max,
                                 .dtype = dtype,
                                 .fd = -1,
                                 .map_bytes = n_patterns * PATTERN_BYTES};
    if (!map_all(w)) {
        status_fail(st, STATUS_IO, "map random weights: %s", strerror(errno));
        weights_random_close(w);
        return NULL;
    }
    fill(w->gains, GAINS_BYTES / VALUE_BYTES, dtype, 1, 1);
    fill((uint16_t *)(void *)w->map, PATTERN_BYTES / VALUE_BYTES, dtype, 0, 2);
    return w;
}

void weights_random_close(struct weights_random *w)
{
    if (!w)
        return;
    if (w->map)
        munmap(w->map, w->map_bytes);
    if (w->gains)
        munmap(w->gains, GAINS_BYTES);
    if (w->fd >= 0)
        close(w->fd);
    free(w->weight);
    free(w);
}

/* Where weight i begins: far from the start of its neighbours. */
static size_t start_of(size_t i)
{
    uint64_t state = i;
    return (size_t)(mix(&state) % (PATTERN_BYTES / START_BYTES)) * START_BYTES;
}

const struct weight *weights_random_add(struct weights_random *w, const char *name, int64_t rows,
                                        int64_t cols)
{
    struct weight *to = &w->weight[w->n];
    const size_t n_bytes = (size_t)rows * (size_t)cols * VALUE_BYTES;
    const bool is_gain = rows == 1;
    assert(w->n < w->n_max);
    assert(n_bytes <= (is_gain ? GAINS_BYTES : w->map_bytes - PATTERN_BYTES));
    *to = (struct weight){.name = str_of(name),
                          .dtype = w->dtype,
                          .rows = rows,
                          .cols = cols,
                          .n_bytes = n_bytes,
                          .source.fd = -1};
    to->source.at = is_gain ? (void *)w->gains : w->map + start_of(w->n);
    w->n++;
    w->n_bytes += n_bytes;
    return to;
}

size_t weights_random_n(const struct weights_random *w)
{
    return w->n;
}

const struct weight *weights_random_at(const struct weights_random *w, size_t i)
{
    return &w->weight[i];
}

size_t weights_random_bytes(const struct weights_random *w)
{
    return w->n_bytes;
}
