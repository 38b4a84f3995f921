/* api_call_int.h - one call and its choices, shared by its three parts.
 *
 * api_call.c runs the life of a call, api_call_build.c makes its requests from the body
 * (prep thread), api_call_write.c turns their tokens into the answer (loop thread). */
#ifndef SERVER_API_CALL_INT_H
#define SERVER_API_CALL_INT_H

#include "scheduler/request.h"
#include "server/api_call.h"
#include "server/api_format.h"
#include "server/api_job.h"
#include "server/api_prompt.h"
#include "server/api_text.h"

struct call;

struct choice {
    struct call *call;
    struct request request;
    int32_t prompt; /* index in call.prompt */
    int32_t index;  /* in the answer */
    const struct request *scores; /* the first of its prompt, whose log-probabilities of the prompt
                                     it echoes; NULL = none */

    /* What was read of the request. */
    int32_t n_noted;   /* tokens at its last news */
    uint64_t noted_ns; /* when */
    bool finished;     /* its last news came */

    /* What was written of it. */
    struct api_text text;
    struct api_offset offset;
    int32_t n_covered;   /* tokens whose log-probabilities were written */
    uint64_t covered_at; /* byte of the text where the next of them begins */
    int32_t n_echoed; /* tokens of the prompt whose log-probabilities were written */
    bool opened, ended;
};

struct call {
    struct api_job job; /* first: the job closes the call */
    enum api_kind kind;
    struct api_params params;
    struct api_prompt *prompt; /* [n_prompts] owned */
    int32_t n_prompts;
    struct choice *choice; /* [n_choices] owned, and the arrays of their requests */
    int32_t n_choices;
    struct sample_bias *bias; /* [n_bias] of every request; owned */
    int32_t n_bias;
    int32_t stop_id[STOP_IDS_MAX];
    int32_t n_stop_ids;
    uint64_t seed;
    struct hash128 domain;
    uint64_t arrived_ns;
    struct api_identity who;
    struct api_format format;

    /* Loop thread, after submit. */
    int32_t n_submitted, n_finished;
    int32_t turn;     /* choice that the next fill begins with */
    bool streaming;   /* http_stream was called */
    bool failed;      /* a request ended in an error: job.error */
    struct buf piece; /* text of one token, kept between tokens */
};

/* Prep thread: everything of the requests but what submit sets.  False: job.error. */
bool call_build(struct call *c);

/* Loop thread. */
enum fill call_fill(void *ctx, struct buf *out, size_t room); /* ctx: the call; may free it */
void call_write_whole(struct call *c, struct buf *out);
struct api_usage call_usage(const struct call *c);

/* Loop thread: the answer is out.  Frees the call once its requests are finished. */
void call_end(struct call *c);
void call_log(struct call *c);

#endif
