/* scheduler.h - which tokens run next: the one owner of every sequence and block.
 *
 * A turn (scheduler_turn) is: drain the inbox and the cancellations; poll the engine;
 * take results and append tokens; plan a step (step_plan_make reads only), apply it
 * (step_plan_apply writes only, and cannot fail), submit it.  A step is planned and
 * submitted while the one before it runs, so stop checks lag by one step; the token
 * computed too many is dropped.
 *
 * A request is WAITING (queued), RUNNING (has a slot and blocks), or finished.  When blocks
 * run out, the youngest running sequence loses its blocks and waits at the head of the
 * queue; its tokens are kept and computed again.  When the engine dies, all running
 * sequences do the same.  A request that was in two crashed steps in a row is failed.
 *
 * Thread: scheduler_submit, _cancel, _news* and _view are the loop thread's; scheduler_turn and
 * everything below it belong to the scheduler thread (scheduler_start makes it; a
 * simulation calls scheduler_turn itself and never starts one). */
#ifndef SCHEDULER_SCHEDULER_H
#define SCHEDULER_SCHEDULER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/status.h"
#include "engine/engine.h"
#include "scheduler/request.h"

struct tokenizer;
struct scheduler;

struct scheduler_options {
    int32_t queue_max;          /* live requests beyond one for each slot; one more is BUSY;
                                   -1 = four for each slot */
    uint64_t queue_wait_ms_max; /* a request waiting longer is failed; 0 = no limit */
    int32_t prefill_chunk_max;  /* prompt tokens of one sequence in one step; 0 = half a step */
    int32_t mixed_tokens_max;   /* tokens of a step in which answers go on, or twice as many as go on
                                   if that is more; 0 = 1024 */
    bool prefix_cache;
    struct hash_key hash_key;   /* from hash_key_random, or fixed in a simulation */
};

/* Takes the engine over (closes it).  `t` is for stop strings; NULL in a simulation without. */
struct scheduler *scheduler_open(const struct scheduler_options *o, struct engine *e,
                                 const struct tokenizer *t, const struct clock *clock,
                                 struct status *st) MUST_CHECK;
void scheduler_close(struct scheduler *s); /* after scheduler_stop; finishes what is left: ERROR */

bool scheduler_start(struct scheduler *s, struct status *st) MUST_CHECK; /* the thread */
void scheduler_stop(struct scheduler *s);                                /* joins it */

/* Loop thread.  BUSY: the queue is full (retry_after_s of the view says when to come back).
 * TOO_LARGE: n_prompt + n_max can never fit the cache; the message has both numbers.  The
 * engine's limits must be known (state was READY once), else BUSY. */
bool scheduler_submit(struct scheduler *s, struct request *r, struct status *st) MUST_CHECK;
void scheduler_cancel(struct scheduler *s, struct request *r); /* finishes within one step */

/* News: a request has new tokens, or is finished.  A request becomes finished by being given out
 * here with its last news, so the scheduler never touches it after; it may then be freed. */
int scheduler_news_fd(const struct scheduler *s);       /* readable: some request has news */
struct request *scheduler_news(struct scheduler *s);    /* next one, or NULL; clears `noted` */
void scheduler_news_done(struct scheduler *s);          /* after NULL: arms the fd again */

/* What the front may know, a consistent copy. */
struct scheduler_view {
    enum engine_state engine_state;
    uint32_t engine_epoch, engine_deaths;
    int64_t engine_pid;
    bool engine_given_up;              /* DOWN for good */
    bool engine_stalled;               /* READY, but its process does not run */
    char engine_why[STATUS_MSG_BYTES]; /* of the last death; "" before the first */
    struct engine_facts facts;         /* zero until READY once */
    struct engine_progress progress;
    int32_t n_waiting, n_running;
    int32_t n_blocks, n_blocks_free, n_blocks_cached; /* cached are free too, with content */
    uint64_t last_step_age_ms;     /* 0 when idle */
    int32_t retry_after_s;         /* 1..60, from the measured rate of finished requests */
    uint64_t n_steps, n_step_tokens;
    uint64_t n_prompt_tokens, n_cached_tokens, n_output_tokens; /* done */
    uint64_t prefix_queries_tokens, prefix_hits_tokens;
    uint64_t n_preemptions, n_replays;
    uint64_t n_finished[5];        /* by enum finish */
    uint64_t n_invariant_faults;
    uint64_t step_tokens_bucket[14]; /* steps by tokens, upper bounds 1 8 16 32 ... 16384, +Inf;
                                        not cumulative */
};
void scheduler_view(const struct scheduler *s, struct scheduler_view *v);

/* Scheduler thread, or a simulation. */
void scheduler_turn(struct scheduler *s);
int64_t scheduler_idle_ms(const struct scheduler *s); /* how long it may sleep; -1 = until woken */
bool scheduler_valid(const struct scheduler *s, struct status *st); /* every invariant; O(all) */

#endif
