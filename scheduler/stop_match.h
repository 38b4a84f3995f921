/* stop_match.h - does the text so far end in, or lead into, a stop string?
 *
 * Fed the bytes of each token, in order.  The scheduler asks where the first match
 * ended; the stream writer asks how many bytes are safe to show, because they can no
 * longer become part of a match.  Matching is Knuth-Morris-Pratt per string: linear,
 * whatever the text.
 *
 * Of several matches the one that ends first wins; of those that end at the same byte, the
 * longest.  So the answer does not depend on how the text is cut into feeds.  Text is cut
 * before the match.
 *
 * Thread: one owner; no allocation. */
#ifndef SCHEDULER_STOP_MATCH_H
#define SCHEDULER_STOP_MATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "scheduler/request.h"

struct stop_match {
    const struct stop_string *stop; /* [n_stops] */
    int32_t n_stops;
    uint64_t n_seen;                       /* bytes fed */
    uint16_t state[STOP_STRINGS_MAX];      /* bytes of each string matched so far */
    uint8_t fail[STOP_STRINGS_MAX][STOP_BYTES_MAX]; /* KMP failure function */
    int32_t hit;                           /* index of the string found, or -1 */
    uint64_t hit_at;                       /* byte offset where it begins */
};

void stop_match_init(struct stop_match *m, const struct stop_string *stop, int32_t n_stops);
/* True once a stop string is complete; later calls change nothing. */
bool stop_match_feed(struct stop_match *m, const char *bytes, size_t n);
/* Bytes from the start that no match can take back: n_seen less the longest partial match, or
 * hit_at after a hit. */
uint64_t stop_match_safe(const struct stop_match *m);

#endif
