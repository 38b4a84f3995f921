/* clock.c - time, behind one pointer so that a simulation can own it. */
#include "base/clock.h"

#include <time.h>

static uint64_t real_now_ns(const struct clock *c)
{
    (void)c;
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

static uint64_t fake_now_ns(const struct clock *c)
{
    return ((const struct clock_fake *)c)->ns; /* `clock` is its first member */
}

const struct clock clock_real = {.now_ns = real_now_ns};

void clock_fake_init(struct clock_fake *f, uint64_t ns)
{
    *f = (struct clock_fake){.clock = {.now_ns = fake_now_ns}, .ns = ns};
}

int64_t clock_unix_s(void)
{
    return (int64_t)time(NULL);
}
