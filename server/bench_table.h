/* bench_table.h - what prompts and steps cost over lengths, batches and contexts.
 *
 * Prefill: a prompt alone, from being submitted to its first token.  Decode: the time between
 * steps while all requests of a batch generate, seen by their reader, so everything a step costs is
 * in it: scheduler, records, results.  Figures are medians.  Bytes of a step are the weights it
 * reads once, and each sequence's keys and values.  Rows that do not fit the cache are left out, but
 * those that were asked for are refused.
 *
 * Thread: main's, in the place of the loop thread. */
#ifndef SERVER_BENCH_TABLE_H
#define SERVER_BENCH_TABLE_H

#include "base/buf.h"
#include "server/bench_requests.h"

enum { BENCH_ROWS_MAX = 32 };

struct bench_rows {
    int n;
    struct bench_row {
        int32_t batch, tokens;
    } at[BENCH_ROWS_MAX];
};

/* "512,8192" for prefills, "64x1024,64x8192" for decodes, which have a batch. */
bool bench_rows_read(struct bench_rows *rows, const char *text, bool have_batch,
                     struct status *st) MUST_CHECK;

struct bench_table {
    bool full;           /* all rows of a GPU's table, many steps; else few, for CPUs */
    const struct bench_rows *prefills, *decodes; /* these rows alone; NULL = all that fit */
    double copy_bytes_s; /* what shares are of; 0 = unknown */
    bool json;           /* into `out`; else rows are printed as they are measured */
    struct buf *out;
};

bool bench_table_run(struct bench_table *t, struct bench_source *from,
                     struct status *st) MUST_CHECK;

#endif
