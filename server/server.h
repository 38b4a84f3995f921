/* server.h - what every handler may reach: the daemon's parts, made once in main.
 *
 * Thread: constant after start, but for the parts' own rules. */
#ifndef SERVER_SERVER_H
#define SERVER_SERVER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"
#include "scheduler/scheduler.h"

struct tokenizer;
struct chat_template;
struct metrics;
struct uv_loop_s;

struct server_limits { /* the request limits of one daemon; each is an option */
    int64_t body_bytes_max; /* 8 MiB */
    int32_t prompts_max;    /* 64 prompts in one call */
    int32_t choices_max;    /* n <= 128; prompts * n as well */
    int32_t logprobs_max;   /* 20 */
    int32_t logit_bias_max; /* 1024 entries */
    int32_t output_tokens_max; /* default when max_tokens is absent: rest of the context, at most this */
};

struct server {
    const char *model_name;   /* as /v1/models and the `model` field say it */
    const char *weights_as[4]; /* quantized how, random: options that are part of a fingerprint */
    int64_t started_unix_s;
    const struct clock *clock;
    struct uv_loop_s *loop;
    struct scheduler *sched;
    const struct tokenizer *tok;
    const struct chat_template *chat; /* NULL: the model has none */
    const char *bos_text, *eos_text;
    struct server_limits limits;
    struct metrics *metrics;
    bool draining; /* SIGTERM was seen: new work gets 503 */
    int32_t prep_max; /* jobs that may wait: what the scheduler would take; below 256 = 256 */
    int32_t n_prep;   /* prep.c: jobs waiting or running */
};

/* Work that a client can make long (render, tokenize) runs on a prep thread; `done` then runs on
 * the loop thread.  False when prep_max jobs are waiting already (answer 503). */
bool prep_submit(struct server *sv, void (*work)(void *ctx), void (*done)(void *ctx), void *ctx);

#endif
