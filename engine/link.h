/* link.h - the memory that front and worker share, and the two sides of it.
 *
 * One memfd:
 *
 *     control   options (front writes before the worker starts); plan, state, progress, facts,
 *               heartbeat (worker writes)
 *     steps     ring of cells, front -> worker: as many as steps may be in flight (engine_depth)
 *     results   ring of as many cells, worker -> front
 *
 * The rings' sizes follow from the limits in the facts, so the worker grows the memfd once
 * the model is loaded and then says READY; the front computes the same sizes, checks that
 * the memfd has them, and maps it.
 *
 * A worker gone wild must not take the front along.  So the front fills a step in memory of its own
 * and copies it in, copies a result out before it checks it, uses a cell only if it lies where
 * the limits say, and seals the memfd against being cut.
 *
 * Thread: link_front_*: the scheduler thread.  link_work: the worker's. */
#ifndef ENGINE_LINK_H
#define ENGINE_LINK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/engine.h"
#include "engine/load_watch.h"

/* What a worker runs: the model (runner.h), or a stand-in in tests. */
struct worker_backend {
    void *(*open)(const struct engine_options *o, const struct load_watch *watch,
                  struct status *st);
    const struct engine_facts *(*facts)(void *runner);
    /* As runner.h says: at most engine_depth() steps are submitted and unanswered. */
    bool (*submit)(void *runner, const struct step *step, struct status *st);
    bool (*ready)(void *runner);
    bool (*result)(void *runner, void *result, struct status *st);
    /* Asked each second that no step comes; NULL = it always is. */
    bool (*healthy)(void *runner, struct status *st);
    void (*close)(void *runner);
};

enum link_state { LINK_LOADING, LINK_READY, LINK_FAILED };

struct link_control;
struct ring;

struct link_fds {
    int shm;    /* memfd */
    int step;   /* eventfd: a step was put */
    int result; /* eventfd: a result was put, or the state changed */
};

struct link { /* the front's side */
    struct link_fds fds;
    struct link_control *control;
    void *rings; /* NULL until link_front_ready */
    size_t rings_bytes;
    struct ring *steps, *results;
    uint32_t step_cell, result_cell; /* bytes; what the limits say, not the rings */
    struct step_limits limits;
    struct step *step; /* private: the next step is filled here */
    void *result;      /* private copy of the oldest unread result */
    bool has_result;   /* the copy holds one */
    bool broken;       /* the rings lead elsewhere: the state is FAILED */
    uint64_t n_submitted, n_answered;
};

bool link_open(struct link *k, const struct engine_options *o, struct status *st) MUST_CHECK;
void link_close(struct link *k);

enum link_state link_front_state(const struct link *k);
void link_front_progress(const struct link *k, struct engine_progress *p);
/* Once the worker has a plan: what it said of it, into the facts.  False before. */
bool link_front_planned(const struct link *k, struct engine_facts *facts);
void link_front_why(const struct link *k, struct status *why); /* after LINK_FAILED */
uint64_t link_front_heartbeat_ns(const struct link *k);
/* Maps the rings and gives the facts; CORRUPT when the worker's numbers do not fit. */
bool link_front_ready(struct link *k, struct engine_facts *facts, struct status *st) MUST_CHECK;
struct step *link_front_room(struct link *k); /* NULL <=> engine_depth() are unanswered */
void link_front_submit(struct link *k);
/* The oldest unread result, checked; NULL with st OK when there is none. */
const struct step_result *link_front_result(struct link *k, struct status *st);
void link_front_result_done(struct link *k);
/* The worker is to end once it has done what it is at. */
void link_front_stop(struct link *k);
void link_front_drain(struct link *k); /* eats the eventfd; call before looking */

/* The worker: load, say READY, run steps until `stop` (may be NULL) or the front says so, or a
 * failure, which it leaves in the control block.  True when stopped, false when it failed. */
bool link_work(const struct link_fds *fds, const struct worker_backend *backend,
               const _Atomic bool *stop);

extern const struct worker_backend
    worker_runner; /* worker_runner.c: runner.h behind this interface */

#endif
