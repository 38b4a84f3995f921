/* seq.h - one request on its way through the scheduler.
 *
 *     WAITING  in the queue; has no slot and no blocks
 *     RUNNING  has a slot; rows of it go into steps
 *     LEAVING  was preempted, but a submitted step still writes its blocks: once that step
 *              is answered it loses them and is WAITING again
 *     ENDED    its request is finished and gone; only the slot and the blocks remain, until
 *              the submitted steps that still write them are answered
 *
 *     FREE -> WAITING      submitted
 *     WAITING -> RUNNING   admitted by a plan
 *     RUNNING -> LEAVING, RUNNING -> WAITING, LEAVING -> WAITING   preempted
 *     RUNNING, LEAVING -> ENDED   finished while in flight
 *     any -> FREE          finished, nothing in flight
 *
 * Tokens are counted from the start of the prompt:
 *
 *     0 <= n_done <= n_sent <= n_known + n_future
 *
 * n_known is prompt and published output.  Up to n_done the KV cache is written; up to
 * n_sent it will be, by submitted steps.  n_future samples are on their way.
 *
 * Thread: scheduler. */
#ifndef SCHEDULER_SEQ_H
#define SCHEDULER_SEQ_H

#include <stdbool.h>
#include <stdint.h>

#include "base/hash.h"
#include "scheduler/request.h"

enum { SEQ_NONE = -1 };
enum { SEQ_PREEMPTIONS_MAX = 3 }; /* preempted more often than this <=> pinned */

enum seq_state { SEQ_FREE, SEQ_WAITING, SEQ_RUNNING, SEQ_LEAVING, SEQ_ENDED };

struct seq {
    enum seq_state state;
    struct request *request; /* NULL <=> FREE or ENDED */
    uint64_t ticket;         /* order of submission */
    int32_t next, prev;      /* queue links while WAITING, free list while FREE */

    /* RUNNING, LEAVING and ENDED; zero (slot -1) otherwise. */
    int32_t slot;
    int32_t n_table; /* blocks in its table = ceil(n_sent / block_tokens) */
    int32_t n_done, n_sent, n_future;
    int32_t n_flight;     /* rows in submitted, unanswered steps */
    bool decoding;        /* the last row sent samples: the next one takes that sample */
    int32_t n_sealed;     /* blocks of the table that were offered to the prefix cache */
    struct hash128 chain; /* hash of the first n_sealed blocks */

    /* The whole life. */
    int32_t n_scored;  /* prompt tokens whose score is written */
    int32_t n_crashes; /* deaths in a row that found it in flight */
    bool prefilled;    /* its prompt was counted */
};

int32_t seq_n_known(const struct seq *q);
void seq_tokens(const struct seq *q, int32_t first, int32_t n, int32_t *out);
bool seq_is_runnable(const struct seq *q); /* RUNNING, and a row of it would be of use */
bool seq_ranks_before(const struct seq *a, const struct seq *b); /* pinned first, then older */
bool seq_may_share(const struct seq *q); /* may take blocks from the prefix cache */
int32_t seq_blocks_for(int32_t n_tokens, int32_t block_tokens);

#endif
