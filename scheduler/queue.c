/* queue.c - a doubly linked list kept in order of tickets. */
#include "scheduler/queue.h"

#include <assert.h>

#include "scheduler/seq.h"

void queue_init(struct queue *w, struct seq *seq)
{
    *w = (struct queue){.seq = seq, .head = SEQ_NONE, .tail = SEQ_NONE};
}

/* The last one with a smaller ticket.  New requests have the largest and preempted ones nearly
 * the smallest, so the search is short from either end. */
static int32_t find_before(const struct queue *w, uint64_t ticket)
{
    if (w->head == SEQ_NONE || w->seq[w->head].ticket > ticket)
        return SEQ_NONE;
    if (w->seq[w->tail].ticket < ticket)
        return w->tail;
    int32_t id = w->head;
    while (w->seq[w->seq[id].next].ticket < ticket)
        id = w->seq[id].next;
    return id;
}

void queue_insert(struct queue *w, int32_t id)
{
    struct seq *q = &w->seq[id];
    q->prev = find_before(w, q->ticket);
    q->next = q->prev == SEQ_NONE ? w->head : w->seq[q->prev].next;
    if (q->prev == SEQ_NONE)
        w->head = id;
    else
        w->seq[q->prev].next = id;
    if (q->next == SEQ_NONE)
        w->tail = id;
    else
        w->seq[q->next].prev = id;
    w->n++;
}

void queue_remove(struct queue *w, int32_t id)
{
    struct seq *q = &w->seq[id];
    assert(w->n > 0);
    if (q->prev == SEQ_NONE)
        w->head = q->next;
    else
        w->seq[q->prev].next = q->next;
    if (q->next == SEQ_NONE)
        w->tail = q->prev;
    else
        w->seq[q->next].prev = q->prev;
    w->n--;
}

bool queue_valid(const struct queue *w)
{
    int32_t n = 0, prev = SEQ_NONE;
    for (int32_t id = w->head; id != SEQ_NONE; prev = id, id = w->seq[id].next) {
        const struct seq *q = &w->seq[id];
        if (++n > w->n || q->prev != prev || q->state != SEQ_WAITING)
            return false;
        if (prev != SEQ_NONE && w->seq[prev].ticket >= q->ticket)
            return false;
    }
    return n == w->n && prev == w->tail;
}
