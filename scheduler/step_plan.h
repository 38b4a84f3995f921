/* step_plan.h - what the next step will run, decided before anything is changed.
 *
 * step_plan_make() only reads the scheduler; step_plan_apply() only writes it and the step
 * record, and cannot fail, because the plan counted every block, slot and token.
 *
 * Policy:
 *   1. Decode rows first, in order of rank: a prompt never holds up a running stream.
 *   2. Then prefill chunks of running sequences, in order of rank.
 *   3. Then the queue, first come first served, while slots are free and blocks suffice for
 *      the whole of what is to be computed, the rest of the prompts already running, and one
 *      block more for each running sequence.  Requests of one group wait, and let others
 *      pass, while one of them computes the prompt that they will share.
 *
 * While answers go on a step has mixed_tokens_max tokens, or twice its decode rows if that is more:
 * prompts get at least as many as answers.
 *
 * Rank is: pinned (preempted more than SEQ_PREEMPTIONS_MAX times) before not, then older
 * before younger.  A decode row that finds no block takes those of the lowest in rank, never
 * of one that ranks before it; so does the first in rank while it prefills.  So the
 * first in rank always gets on, and nothing waits for ever.  A victim whose last step is not
 * answered yet gives its blocks up only then; the row waits for that step.
 *
 * An engine of S stages works at S steps at a time, and a sequence that decodes can be in one of
 * them alone: its next row names the token that the last one sampled.  So a step takes at most an
 * S-th of those who decode, the first in rank of who is not in flight, and S such steps are in
 * flight: then all of them are, in micro-batches of one size, and nobody waits for more than a
 * round.  A step more, of prompts alone, may wait before the first stage.  A prompt's chunks need
 * no sample: several are in flight, and for that a step has half an S-th of the tokens it may have.
 * One sequence alone has its next row at once when its sample is known, as deep as the stages are.
 *
 * Thread: scheduler. */
#ifndef SCHEDULER_STEP_PLAN_H
#define SCHEDULER_STEP_PLAN_H

#include <stdbool.h>
#include <stdint.h>

struct scheduler;
struct step;

struct plan_row {
    int32_t seq;      /* index in scheduler.seq */
    int32_t n_tokens; /* >= 1 */
    int32_t n_blocks; /* to be taken for it */
    int32_t n_hit;    /* of a new sequence: blocks found in the prefix cache */
    uint32_t flags;   /* enum row_flags */
    bool is_new;      /* to be admitted from the queue */
};

struct step_plan {
    int32_t n_rows;
    struct plan_row *row; /* [seqs_max] decodes, prefills, admissions */
    int32_t n_tokens;     /* sum over rows; <= step_tokens_max */
    int32_t n_blocks;     /* sum over rows, with the cached blocks that hits take off the free
                             list; <= free blocks after preemption */
    int32_t n_preempt;    /* the last so many of scheduler.run lose their blocks */
    int32_t *tokens;      /* [block_tokens] scratch of the prefix lookup */
};

void step_plan_make(const struct scheduler *s, struct step_plan *plan);
/* `at` is the engine's room for a step; may be NULL when the plan has no rows. */
void step_plan_apply(struct scheduler *s, const struct step_plan *plan, struct step *at);

#endif
