/* bench_load.h - many HTTP clients in one thread, and when their events came.
 *
 * One epoll loop; a connection serves one request after another.  An event costs a scan of the
 * receive buffer and one count in a histogram.  Bounded by n_requests and time_s.
 *
 * Thread: one. */
#ifndef SERVER_BENCH_LOAD_H
#define SERVER_BENCH_LOAD_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "server/bench_hist.h"

struct load_options {
    struct sockaddr_in addr;
    char host[64]; /* for the Host header: address and port */
    const char *model;
    int32_t concurrency, n_requests;
    int32_t n_stalled; /* more clients, which ask and then never read; not counted */
    double rate; /* requests a second; 0 = closed loop, infinite = all at the start */
    int32_t max_tokens, prompt_tokens, time_s;
    bool sharegpt; /* lengths of bench_lengths.h instead of those two */
    uint64_t seed;
};

struct load_result {
    int32_t n_ok, n_failed;
    int32_t n_status[600]; /* answers by status; 200 with an error event is failed too */
    int32_t n_broken;      /* closed early, refused, or not HTTP */
    int32_t n_late;        /* not finished, or not begun, when time_s was over */
    int32_t n_short;       /* ok, but with fewer tokens than were asked for, or more */
    int32_t n_uncounted;   /* ok, but without usage: their events count as tokens */
    uint64_t n_events, n_bytes;
    uint64_t n_prompt_tokens, n_tokens, n_tokens_wanted; /* of those that are ok */
    uint64_t wall_ns, cpu_ns;      /* of this process */
    /* From the first answer's end to the last answer's first event, and what came between.  If
     * requests come faster than they end, some wait for room all the while. */
    uint64_t saturated_ns, n_saturated_events;
    struct hist first, gap, whole; /* from the due time; between events; from the due time */
    struct hist token;             /* a request's mean time of a token after its first event */
};

bool load_run(const struct load_options *o, struct load_result *res, struct status *st) MUST_CHECK;

/* The id of the server's first model, into out (max bytes). */
bool load_model_name(const struct load_options *o, char *out, int32_t max,
                     struct status *st) MUST_CHECK;

#endif
