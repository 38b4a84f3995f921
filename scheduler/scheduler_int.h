/* scheduler_int.h - the inside of the scheduler; for this folder and its tests alone.
 *
 * Everything is sized by the engine's limits, so it is taken once, when the engine is READY for
 * the first time (scheduler_tables_open), and never grows. */
#ifndef SCHEDULER_SCHEDULER_INT_H
#define SCHEDULER_SCHEDULER_INT_H

#include <pthread.h>

#include "base/arena.h"
#include "base/ring.h"
#include "scheduler/kv_blocks.h"
#include "scheduler/prefix_cache.h"
#include "scheduler/queue.h"
#include "scheduler/scheduler.h"
#include "scheduler/seq.h"
#include "scheduler/step_plan.h"
#include "scheduler/stop_match.h"

/* A submitted step that is not answered yet. */
struct flight {
    uint64_t step_id;
    int32_t n_rows, n_tokens;
    int32_t n_decodes; /* rows that go on from a sample */
    struct flight_row {
        int32_t seq, slot;
        int32_t position, n_tokens;
        uint32_t flags;
        int32_t n_scores; /* expected in the answer */
    } * row;              /* [n_slots] */
};

/* What news the loop gets: a request with more tokens, or (finish set) for the last time. */
struct news_cell {
    struct request *request;
    enum finish finish;
};

/* The text a token adds to the answer, for stop strings. */
struct token_text {
    const char *(*bytes)(const void *ctx, int32_t id, size_t *n);
    const void *ctx;
};

struct published {
    struct scheduler_view view;
    uint64_t last_step_ns;
    bool busy;
    double finish_rate; /* per second, as of rate_at_ns */
    uint64_t rate_at_ns;
};

/* The newest view, handed over without a lock: the writer fills `back` and exchanges it with
 * `middle`; the reader exchanges `front` with `middle` if that is fresh. */
struct view_box {
    struct published slot[3];
    _Atomic uint32_t middle; /* index, and VIEW_FRESH if the reader has not seen it */
    uint32_t back;           /* the scheduler thread's */
    uint32_t front;          /* the loop thread's */
};
enum { VIEW_FRESH = 4 };

struct scheduler {
    /* Constant after open. */
    struct scheduler_options options;
    struct engine *engine;
    const struct clock *clock;
    struct token_text text; /* bytes NULL <=> no stop strings are matched */
    int wake_fd, news_fd;   /* eventfds: to the scheduler thread, to the loop */

    /* Both threads. */
    _Atomic bool stopping;
    _Atomic uint32_t n_cancels; /* calls of scheduler_cancel */
    struct ring *inbox;         /* loop to scheduler: struct request * */
    struct ring *news;          /* scheduler to loop: struct news_cell */
    struct view_box *box;

    /* Loop thread. */
    pthread_t thread;
    bool started;
    int32_t n_lent; /* requests submitted and not given back by scheduler_news; <= lent_max */
    bool has_lent;  /* ever: so the rings are known to exist */

    /* Scheduler thread: constant once has_tables. */
    bool has_tables;
    void *mem;
    struct step_limits limits;
    int32_t n_slots, n_seqs, table_max, lent_max;
    int32_t depth; /* steps that may be in flight */

    /* Scheduler thread. */
    uint32_t epoch;      /* of the engine's life that the tables are about; 0 = none */
    uint32_t sick_epoch; /* killed by us: not to be used again */
    uint64_t n_tickets, n_step_ids;
    uint64_t now_ns;            /* of this turn */
    uint64_t queue_deadline_ns; /* no waiting request is too old before; 0 = unknown */
    uint64_t checked_ns;        /* when the invariants were checked last */
    uint32_t n_cancels_seen;
    bool has_news; /* something was put into the news ring in this turn */

    struct seq *seq;  /* [n_seqs] */
    int32_t free_seq; /* list through seq.next */
    struct queue queue;
    int32_t *run; /* [n_run] RUNNING, in order of rank */
    int32_t n_run, n_leaving, n_ended;
    int32_t *slot_seq;  /* [n_slots] who has it, or SEQ_NONE */
    int32_t *free_slot; /* [n_free_slots] */
    int32_t n_free_slots;
    block_id *table;          /* [n_slots, table_max] */
    struct stop_match *match; /* [n_slots] */
    struct kv_blocks kv;
    struct prefix_cache cache;
    struct flight flight[ENGINE_DEPTH_MAX]; /* [depth] the oldest is flight[0] */
    int32_t n_flights;
    struct step_plan plan;
    int32_t *tokens; /* [context_max] scratch */

    struct scheduler_view stat; /* counters; the rest is filled when published */
    double finish_rate;
    uint64_t rate_at_ns;
};

/* scheduler_open without a tokenizer: `text` may be NULL. */
struct scheduler *scheduler_open_text(const struct scheduler_options *o, struct engine *e,
                                      const struct token_text *text, const struct clock *clock,
                                      struct status *st) MUST_CHECK;

bool scheduler_tables_open(struct scheduler *s, const struct step_limits *l,
                           struct status *st) MUST_CHECK;
void scheduler_tables_close(struct scheduler *s);

/* scheduler_seq.c: the arrows of seq.h. */
int32_t scheduler_seq_take(struct scheduler *s, struct request *r); /* -> WAITING */
void scheduler_seq_admit(struct scheduler *s, int32_t id, int32_t n_hit);
void scheduler_seq_preempt(struct scheduler *s, int32_t id);
void scheduler_seq_landed(struct scheduler *s, int32_t id); /* a row of it was answered */
void scheduler_seq_finish(struct scheduler *s, int32_t id, enum finish f, const struct status *why);
void scheduler_seq_lost(struct scheduler *s, int32_t id); /* the engine died: all is gone */
void scheduler_seq_seal(struct scheduler *s, struct seq *q);
void scheduler_news_put(struct scheduler *s, struct request *r);
static inline block_id *scheduler_table(const struct scheduler *s, int32_t slot)
{
    return s->table + (size_t)slot * (size_t)s->table_max;
}

/* scheduler_result.c.  False: the engine broke its contract; st says how. */
bool scheduler_take_result(struct scheduler *s, const struct step_result *r, struct status *st);

/* scheduler_view.c */
void scheduler_view_init(struct view_box *box);
void scheduler_view_publish(struct scheduler *s);
void scheduler_count_finish(struct scheduler *s, enum finish f);

#endif
