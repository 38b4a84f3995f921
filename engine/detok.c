/* detok.c - streaming UTF-8: whole characters out, whatever the cuts between tokens.
 *
 * `held` is always a proper prefix of some well-formed character (Unicode table 3-7), so a
 * byte that cannot continue it ends a maximal subpart, which is worth one U+FFFD. */
#include "engine/tokenizer.h"

#include <string.h>

static size_t width_of(unsigned char lead) /* 0: no character starts so */
{
    if (lead < 0x80)
        return 1;
    if (lead < 0xC2 || lead > 0xF4)
        return 0;
    return lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
}

static bool continues(const struct detok *d, unsigned char c)
{
    unsigned char low = 0x80, high = 0xBF;
    if (d->n_held == 1) {
        switch ((unsigned char)d->held[0]) {
        case 0xE0:
            low = 0xA0; /* below: could be shorter */
            break;
        case 0xED:
            high = 0x9F; /* above: surrogates */
            break;
        case 0xF0:
            low = 0x90;
            break;
        case 0xF4:
            high = 0x8F; /* above: past U+10FFFF */
            break;
        }
    }
    return c >= low && c <= high;
}

static size_t put_replacement(char *out)
{
    memcpy(out, "\xEF\xBF\xBD", 3);
    return 3;
}

static size_t feed_byte(struct detok *d, char c, char *out)
{
    size_t n = 0;
    if (d->n_held && !continues(d, (unsigned char)c))
        n = detok_finish(d, out);
    if (!d->n_held) {
        size_t width = width_of((unsigned char)c);
        if (width == 0)
            return n + put_replacement(out + n);
        if (width == 1) {
            out[n] = c;
            return n + 1;
        }
    }
    d->held[d->n_held++] = c;
    if (d->n_held < width_of((unsigned char)d->held[0]))
        return n;
    memcpy(out + n, d->held, d->n_held);
    n += d->n_held;
    d->n_held = 0;
    return n;
}

size_t detok_feed(struct detok *d, const char *bytes, size_t n, char *out)
{
    size_t n_out = 0;
    for (size_t i = 0; i < n; i++)
        n_out += feed_byte(d, bytes[i], out + n_out);
    return n_out;
}

size_t detok_finish(struct detok *d, char *out)
{
    if (!d->n_held)
        return 0;
    d->n_held = 0;
    return put_replacement(out);
}
