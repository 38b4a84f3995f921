/* str.c - text from outside, made fit for a message. */
#include "base/str.h"

struct str_shown str_show(struct str s)
{
    struct str_shown out;
    const size_t n = s.n < sizeof out.text - 4 ? s.n : sizeof out.text - 4;
    for (size_t i = 0; i < n; i++)
        out.text[i] = s.at[i] >= ' ' && s.at[i] <= '~' ? s.at[i] : '?';
    memcpy(out.text + n, n < s.n ? "..." : "", n < s.n ? 4 : 1);
    return out;
}
