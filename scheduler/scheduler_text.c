/* scheduler_text.c - opens the scheduler with a real tokenizer for the text of stop strings. */
#include "engine/tokenizer.h"
#include "scheduler/scheduler_int.h"

static const char *token_bytes(const void *ctx, int32_t id, size_t *n)
{
    return tokenizer_bytes(ctx, id, false, n);
}

struct scheduler *scheduler_open(const struct scheduler_options *o, struct engine *e,
                                 const struct tokenizer *t, const struct clock *clock,
                                 struct status *st)
{
    const struct token_text text = {.bytes = token_bytes, .ctx = t};
    return scheduler_open_text(o, e, t ? &text : NULL, clock, st);
}
