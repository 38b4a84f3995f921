/* bench_response.h - one HTTP answer of a server under test, read as its bytes come.
 *
 * Counts what a load generator wants to know: status, events that carry text (`data:` lines of the
 * stream, but neither one that only says how the answer ended nor one of usage alone), the
 * tokens that the server says it made, and how the answer ends.  The text of events is not kept.
 * It reads any cut of the bytes alike and never allocates.
 *
 * Thread: one owner. */
#ifndef SERVER_BENCH_RESPONSE_H
#define SERVER_BENCH_RESPONSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum response_state {
    RESPONSE_HEAD,
    RESPONSE_CHUNK_SIZE,
    RESPONSE_CHUNK,
    RESPONSE_CHUNK_END,
    RESPONSE_TRAILER,
    RESPONSE_BODY,   /* `left` bytes */
    RESPONSE_STREAM, /* until the connection closes */
    RESPONSE_END,
    RESPONSE_BROKEN, /* this is no HTTP/1 answer */
};

enum { RESPONSE_LINE_MAX = 64, RESPONSE_EVENT_MAX = 1024 };

struct response {
    enum response_state state;
    int status;     /* 0 until its line came */
    bool closes;    /* the connection serves no further request */
    bool done;      /* "data: [DONE]" came */
    bool has_error; /* an event was an error object */
    uint32_t n_events;
    int32_t n_tokens; /* by usage.completion_tokens; -1 = nothing said */

    bool chunked, has_length;
    uint64_t left;                  /* bytes of the chunk or the body */
    char line[RESPONSE_LINE_MAX];   /* first bytes of a line of the head, or of a chunk's size */
    char event[RESPONSE_EVENT_MAX]; /* first bytes of a line of the body */
    uint32_t n_line, n_event;
};

void response_init(struct response *r);
/* Reads up to the end of the answer; the number of bytes read. */
size_t response_feed(struct response *r, const char *bytes, size_t n);
/* The connection was closed: was this the answer's end? */
bool response_closed(struct response *r);

#endif
