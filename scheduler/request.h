/* request.h - one generation: what the front asks, and what has come out so far.
 *
 * The loop thread makes a request (prompt already in token ids, every parameter
 * already checked), lends it with scheduler_submit(), and may free it only once
 * request_finished() is true.  An API call with n choices or several prompts makes
 * several requests.
 *
 * Results are not queued: the scheduler writes tokens into the request's own arrays, whose
 * size is known from n_max, and publishes the count.  So a reader that is slow, for
 * whatever reason, costs nobody else anything, and nothing is ever dropped.
 *
 * Thread: fields are grouped by who writes them, and when. */
#ifndef SCHEDULER_REQUEST_H
#define SCHEDULER_REQUEST_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/hash.h"
#include "base/status.h"
#include "engine/step.h"

enum finish {
    FINISH_NONE,
    FINISH_STOP,      /* an end token, a stop token or a stop string */
    FINISH_LENGTH,    /* n_max tokens */
    FINISH_CANCELLED, /* the front asked */
    FINISH_ERROR,     /* `why` says what; the client gets an error object */
};

struct stop_string {
    const char *at;
    int32_t n; /* 1..STOP_BYTES_MAX */
};
enum { STOP_STRINGS_MAX = 16, STOP_BYTES_MAX = 256, STOP_IDS_MAX = 64 };

struct request {
    /* Loop thread, before submit; constant after. */
    uint64_t id;           /* for logs; never a key */
    uint32_t group;        /* requests of one call with the same prompt share it; 0 = none */
    struct hash128 domain; /* trust domain of the API key: root of the prefix hashes */
    const int32_t *prompt; /* [n_prompt], n_prompt >= 1 */
    int32_t n_prompt;
    int32_t n_max;         /* tokens to generate, 0 = score the prompt alone (echo);
                              n_prompt + n_max <= context */
    struct sample_params sample;
    const struct sample_bias *bias; /* [n_bias] logit_bias, and ends banned until min_tokens */
    int32_t n_bias;
    const int32_t *stop_id;         /* [n_stop_ids] end and stop tokens; empty with ignore_eos */
    int32_t n_stop_ids;
    int32_t n_min;                  /* the first n_min tokens cannot stop: their ids are no stop ids,
                                       and stop strings are looked for in the text after them */
    struct stop_string stop[STOP_STRINGS_MAX];
    int32_t n_stops;
    bool score_prompt;     /* log-probabilities of the prompt too */
    uint64_t arrived_ns;
    void *owner;           /* the loop's own; the scheduler never looks */

    /* Loop thread, any time. */
    _Atomic bool cancelled;

    /* Scheduler thread (cleared by scheduler_submit); entries below the published counts are final,
     * score and score_top once n_out > 0 or finished, the fields after `finish` once finished. */
    struct sample_out_slim {
        int32_t id;
        float logprob;
    } *out;                     /* [n_max] */
    struct top_logprob {
        int32_t id;
        float logprob;
    } *top;                     /* [n_max, n_logprobs] or NULL; short lists padded with id -1 */
    struct sample_out_slim *score; /* [n_prompt] of the prompt's tokens; [0] has logprob 0 */
    struct top_logprob *score_top; /* [n_prompt, n_logprobs] */
    _Atomic int32_t n_out;      /* tokens published (release) */
    _Atomic int32_t finish;     /* enum finish; set once, by the scheduler_news call that gives the
                                   request out for the last time, or by scheduler_close */
    struct status why;          /* FINISH_ERROR: for the client */
    int32_t n_cached;           /* prompt tokens found in the prefix cache at first admission */
    int32_t n_preempted;        /* times its blocks were taken */
    int32_t n_replayed;         /* engine deaths it was carried over */
    int32_t stop_index;         /* which stop string ended it, or -1 */
    int32_t stop_token;         /* which token ended it, or -1; the token is not in `out` */
    uint64_t scheduled_ns, first_token_ns, finished_ns; /* 0 = not yet */

    /* Scheduler thread, its own. */
    struct seq *seq;
    _Atomic bool noted; /* in the news ring already: set by the scheduler, cleared by the loop */
};

static inline bool request_finished(const struct request *r)
{
    return atomic_load_explicit(&r->finish, memory_order_acquire) != FINISH_NONE;
}

#endif
