/* api_format.h - answers and stream events of both endpoints, written by hand.
 *
 * What a call's events share is made once (`head`), so an event costs an escape and a
 * few copies.  The two endpoints differ in names and in the form of log-probabilities
 * alone: struct api_shape says how.
 *
 * Thread: one owner; nothing is allocated but what `out` grows by. */
#ifndef SERVER_API_FORMAT_H
#define SERVER_API_FORMAT_H

#include "base/buf.h"
#include "engine/tokenizer.h"
#include "scheduler/request.h"

struct api_format;

/* Where the next token's text begins, in characters of the answer's text. */
struct api_offset {
    struct detok detok;
    int64_t n_chars;
};

struct api_run {                         /* consecutive tokens with their log-probabilities */
    const struct sample_out_slim *token; /* [n] */
    const struct top_logprob *top;       /* [n, n_top] or NULL; short lists padded with id -1 */
    int32_t n, n_top;
    bool first_unknown; /* a prompt's first token follows nothing: null */
};

struct api_shape {
    const char *id; /* prefix of the answer's id */
    const char *object, *chunk_object;
    const char *text_open, *text_close;   /* around a whole answer's text */
    const char *delta_open, *delta_close; /* around an event's text */
    const char *delta_first;              /* of the event that opens a choice; NULL = none */
    const char *delta_last;               /* of the event with finish_reason */
    void (*put_logprobs)(const struct api_format *f, struct buf *out, const struct api_run *run,
                         int n_runs, struct api_offset *offset);
};

extern const struct api_shape api_shape_completions, api_shape_chat;

struct api_format {
    const struct api_shape *shape;
    const struct tokenizer *tok;
    bool include_usage; /* every event says "usage":null but the last */
    struct buf head;    /* an answer up to and with `"choices":[`; owned */
};

struct api_piece { /* what one event says */
    int32_t index;
    const char *text; /* [n] */
    size_t n;
    const struct api_run *run; /* [n_runs]; 0 = "logprobs":null */
    int n_runs;
    struct api_offset *offset;
};

struct api_usage {
    int64_t n_prompt, n_output, n_cached;
};

struct api_identity { /* of one answer */
    const char *model;
    uint64_t id[2];
    int64_t created;
    uint64_t fingerprint;
};

/* False when memory is out. */
bool api_format_init(struct api_format *f, const struct api_shape *shape, bool stream,
                     const struct api_identity *who);
void api_format_close(struct api_format *f);

/* Stream events. */
void api_put_first(const struct api_format *f, struct buf *out, int32_t index);
void api_put_piece(const struct api_format *f, struct buf *out, const struct api_piece *p);
void api_put_last(const struct api_format *f, struct buf *out, int32_t index, enum finish why);
void api_put_usage_event(const struct api_format *f, struct buf *out, const struct api_usage *u);

/* Parts of a whole answer. */
void api_put_logprobs(const struct api_format *f, struct buf *out, const struct api_piece *p);
void api_put_usage(struct buf *out, const struct api_usage *u); /* the object alone */
const char *api_finish_name(enum finish why);

/* What both shapes need: a log-probability (a finite number always), and `n` bytes as text. */
void api_put_logprob(struct buf *out, float logprob);

#endif
