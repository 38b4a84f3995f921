/* queue.h - the sequences that wait, oldest first.
 *
 * A list through the sequences themselves (seq.next, seq.prev), in order of their tickets:
 * a preempted sequence, being older than whatever was never admitted, comes back to
 * the head by itself.
 *
 * Thread: scheduler. */
#ifndef SCHEDULER_QUEUE_H
#define SCHEDULER_QUEUE_H

#include <stdbool.h>
#include <stdint.h>

struct seq;

struct queue {
    struct seq *seq; /* all sequences; the queue links some of them */
    int32_t head, tail;
    int32_t n;
};

void queue_init(struct queue *w, struct seq *seq);
void queue_insert(struct queue *w, int32_t id);
void queue_remove(struct queue *w, int32_t id);
bool queue_valid(const struct queue *w);

#endif
