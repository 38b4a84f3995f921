/* api_job.h - one exchange whose work runs on a prep thread, while its client may leave.
 *
 * A job copies the body and what it is checked against, so that the prep thread reads
 * nothing that the loop thread may change or free.
 *
 *     api_job_start --> work (prep thread) --> done (loop thread) --> close
 *                                         \--> close: the client left, or work failed
 *
 * `work` reads and parses the body too: a large one costs the loop a copy, no more.
 *
 * Thread: as said at each function. */
#ifndef SERVER_API_JOB_H
#define SERVER_API_JOB_H

#include <stdatomic.h>
#include <stdbool.h>

#include "server/api_params.h"
#include "server/http.h"
#include "server/server.h"

struct scheduler_view;

struct api_job { /* embedded first in what a handler needs beside */
    /* Constant after start. */
    struct server *sv;
    struct api_env env;
    bool (*work)(struct api_job *job);  /* prep thread; false = `error` is filled */
    void (*done)(struct api_job *job);  /* loop thread; the client is there; owns the job now */
    void (*close)(struct api_job *job); /* frees everything of the embedding struct */

    /* Loop thread. */
    struct exchange *x; /* NULL <=> the client left, or has its answer */

    /* Prep thread, until done. */
    char *body; /* NUL-terminated; owned */
    size_t n_body;
    bool failed;
    struct api_error error;

    /* Both. */
    _Atomic bool gone; /* the loop sets it; `work` may give up when it sees it */
};

/* Loop thread.  Takes the job over: on failure it is answered and closed.  False then. */
bool api_job_start(struct api_job *job, struct exchange *x, struct server *sv,
                   const struct scheduler_view *v);
/* Loop thread: one of the two answers, then x is NULL. */
void api_job_fail(struct api_job *job, const struct api_error *e);
void api_job_answer(struct api_job *job, struct buf *body);
/* The error when memory is out; returns false. */
bool api_job_no_memory(struct api_job *job);

#endif
