#include "server/bench_lengths.h"

#include <math.h>

#include "server/bench_random.h"

/* `mu` is such that the mean of what lies in [min, max] is the one promised. */
static const struct shape {
    double mu, sigma;
    int32_t min, max;
} prompts = {4.906079, 1.3, 4, 1024}, answers = {4.880499, 0.9, 4, 900};

static double draw_normal(uint64_t *random) /* Box and Muller's */
{
    const double u = 1 - random_unit(random), v = random_unit(random);
    return sqrt(-2 * log(u)) * cos(6.283185307179586 * v);
}

/* Draws again what is out of range: at worst one in ten. */
static int32_t draw(const struct shape *s, uint64_t *random)
{
    for (;;) {
        const double n = exp(s->mu + s->sigma * draw_normal(random));
        if (n >= s->min && n <= s->max)
            return (int32_t)lround(n);
    }
}

struct lengths lengths_sharegpt(uint64_t seed, int32_t request)
{
    uint64_t random = random_of(seed, (uint64_t)request);
    const int32_t prompt = draw(&prompts, &random);
    return (struct lengths){.prompt = prompt, .answer = draw(&answers, &random)};
}
