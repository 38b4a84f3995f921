/* bench_table.h - what prompts and steps cost over lengths, batches and contexts.
 *
 * Prefill: a prompt alone, from being submitted to its first token.  Decode: the time between
 * steps while all requests of a batch generate, seen by their reader, so everything a step costs is
 * in it: scheduler, records, results.  Figures are medians.  Bytes of a step are the weights it
 * reads once, and each sequence's keys and values.
 *
 * Thread: main's, in the place of the loop thread. */
#ifndef SERVER_BENCH_TABLE_H
#define SERVER_BENCH_TABLE_H

#include "base/buf.h"
#include "server/bench_requests.h"

struct bench_table {
    bool full;           /* all rows of a GPU's table; else few, for CPUs */
    double copy_bytes_s; /* what shares are of; 0 = unknown */
    bool json;           /* into `out`; else rows are printed as they are measured */
    struct buf *out;
};

bool bench_table_run(struct bench_table *t, struct bench_source *from,
                     struct status *st) MUST_CHECK;

#endif
