/* str.h - a piece of text that someone else owns: where it is and how long.
 *
 * Not terminated, and valid as long as what it points into.  Thread: a value. */
#ifndef BASE_STR_H
#define BASE_STR_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

struct str {
    const char *at;
    size_t n;
};

static inline struct str str_of(const char *text)
{
    return (struct str){text, strlen(text)};
}

static inline bool str_equal(struct str a, struct str b)
{
    return a.n == b.n && memcmp(a.at, b.at, a.n) == 0;
}

static inline bool str_is(struct str s, const char *text)
{
    return str_equal(s, str_of(text));
}

/* Text from outside as it may appear in a message: short, one line, no control bytes. */
struct str_shown {
    char text[72];
};

struct str_shown str_show(struct str s);

#endif
