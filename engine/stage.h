/* stage.h - a rank's part in running a model: one stage's leader, or one that follows it.
 *
 * The ranks that divide a stage's layers do each thing together: its leader, the first of them,
 * tells the others (submit this step, wait for the oldest), and all do it; in the middle of it
 * their devices meet in sums.
 *
 * The leaders are a chain.  The first one's steps come from its caller; it hands each on, before
 * its own device has it, and so do the others, so that a step is on its way to all stages while the
 * first still computes.  Rows of activations follow it from device to device.  What the last stage
 * finds goes to the first by mail (comm.h), in order of steps.
 *
 * The chain is closed, and its mail is bounded; it cannot lock up, because the last stage never
 * waits to send: what has no room stays with it, and meanwhile it takes the DEVICE_DEPTH steps that
 * its device may have beside.  With one step in each stage between, that is more than are in
 * flight.
 *
 * Thread: one a rank. */
#ifndef ENGINE_STAGE_H
#define ENGINE_STAGE_H

#include "engine/engine.h"

struct comm;
struct runner;

struct stage {
    struct runner *runner;
    struct comm *comm; /* of the ranks that divide its layers; NULL <=> this one alone */
    struct comm *grid; /* of all ranks; NULL <=> one stage */
    bool is_last;
    struct status fault; /* of the first stage, found while it looked whether another was done */
    void *step;          /* what came from the leader, or from the stage before; else NULL */
    size_t step_bytes_max;

    /* Of the last stage's leader: samples that are not sent yet. */
    const char *unsent;
    size_t n_unsent;
    struct found { /* in front of them */
        uint64_t id;
        int64_t n_outs;
    } found;
    size_t n_found_unsent; /* bytes of `found` */
};

/* A rank that takes its steps from others; the runner is open.  Keeps what it takes of memory. */
bool stage_follower_init(struct stage *s, struct status *st) MUST_CHECK;
void stage_follower_close(struct stage *s);
/* Until the model is told to stop (true), or fails. */
bool stage_follow(struct stage *s, struct status *st) MUST_CHECK;

/* The leader of the first stage.  stage_nap_short: once, in its thread. */
void stage_nap_short(const struct stage *s);
bool stage_submit(struct stage *s, const struct step *step, struct status *st) MUST_CHECK;
/* Whether stage_result would not wait: then too when all that it has to give is a failure. */
bool stage_ready(struct stage *s);
bool stage_result(struct stage *s, void *result, struct status *st) MUST_CHECK;
/* CANCELLED when steps are unanswered: the group must be failed. */
bool stage_stop(struct stage *s, struct status *st) MUST_CHECK;

#endif
