/* stop_match.c - Knuth-Morris-Pratt for a handful of short strings at once. */
#include "scheduler/stop_match.h"

#include <assert.h>

/* fail[i] = length of the longest proper prefix of s that s[0 .. i] ends in. */
static void build_fail(uint8_t *fail, const char *s, int32_t n)
{
    fail[0] = 0;
    int32_t k = 0;
    for (int32_t i = 1; i < n; i++) {
        while (k > 0 && s[i] != s[k])
            k = fail[k - 1];
        k += s[i] == s[k];
        fail[i] = (uint8_t)k; /* k < n <= STOP_BYTES_MAX = 256 */
    }
}

void stop_match_init(struct stop_match *m, const struct stop_string *stop, int32_t n_stops)
{
    assert(n_stops >= 0 && n_stops <= STOP_STRINGS_MAX);
    m->stop = stop;
    m->n_stops = n_stops;
    m->n_seen = 0;
    m->hit = -1;
    m->hit_at = 0;
    for (int32_t i = 0; i < n_stops; i++) {
        assert(stop[i].n >= 1 && stop[i].n <= STOP_BYTES_MAX);
        m->state[i] = 0;
        build_fail(m->fail[i], stop[i].at, stop[i].n);
    }
}

/* One byte; true if it completes a string.  The longest of those wins. */
static bool feed_byte(struct stop_match *m, char c)
{
    m->n_seen++;
    for (int32_t i = 0; i < m->n_stops; i++) {
        const struct stop_string *s = &m->stop[i];
        uint16_t k = m->state[i];
        while (k > 0 && s->at[k] != c)
            k = m->fail[i][k - 1];
        k = (uint16_t)(k + (s->at[k] == c));
        m->state[i] = k;
        if (k == s->n && (m->hit < 0 || s->n > m->stop[m->hit].n))
            m->hit = i;
    }
    if (m->hit < 0)
        return false;
    m->hit_at = m->n_seen - (uint64_t)m->stop[m->hit].n;
    return true;
}

bool stop_match_feed(struct stop_match *m, const char *bytes, size_t n)
{
    if (m->hit >= 0)
        return true;
    if (m->n_stops == 0) {
        m->n_seen += n;
        return false;
    }
    for (size_t i = 0; i < n; i++)
        if (feed_byte(m, bytes[i]))
            return true;
    return false;
}

uint64_t stop_match_safe(const struct stop_match *m)
{
    if (m->hit >= 0)
        return m->hit_at;
    uint16_t longest = 0;
    for (int32_t i = 0; i < m->n_stops; i++)
        if (m->state[i] > longest)
            longest = m->state[i];
    return m->n_seen - longest;
}
