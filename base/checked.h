/* checked.h - arithmetic on sizes that come from outside.
 *
 * Every size read from a file, a peer or a request goes through these.  False
 * means that the true result does not fit; *out is then unspecified. */
#ifndef BASE_CHECKED_H
#define BASE_CHECKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline bool size_add(size_t a, size_t b, size_t *out)
{
    return !__builtin_add_overflow(a, b, out);
}

static inline bool size_mul(size_t a, size_t b, size_t *out)
{
    return !__builtin_mul_overflow(a, b, out);
}

static inline bool size_align(size_t n, size_t align, size_t *out) /* align: a power of two */
{
    size_t up;
    if (!size_add(n, align - 1, &up))
        return false;
    *out = up & ~(align - 1);
    return true;
}

#endif
