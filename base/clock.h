/* clock.h - time, behind one pointer so that a simulation can own it.
 *
 * All logic uses the monotonic clock; wall time is for logs and for the "created"
 * field of answers alone. */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stdint.h>

#define NS_PER_MS 1000000ull
#define NS_PER_S  1000000000ull

struct clock {
    uint64_t (*now_ns)(const struct clock *c); /* monotonic; the origin is arbitrary */
};

struct clock_fake {
    struct clock clock;
    uint64_t ns; /* what now_ns answers; the owner moves it forward */
};

extern const struct clock clock_real;
void clock_fake_init(struct clock_fake *f, uint64_t ns);

static inline uint64_t clock_now(const struct clock *c)
{
    return c->now_ns(c);
}

int64_t clock_unix_s(void); /* seconds since 1970, wall time */

#endif
