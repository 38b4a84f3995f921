/* api_call_build.c - from a body to requests that lack nothing but their submission. */
#include "server/api_call_int.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *input_name(const struct call *c)
{
    return c->kind == API_CHAT ? "messages" : "prompt";
}

static bool call_gone(const struct call *c)
{
    return atomic_load_explicit(&c->job.gone, memory_order_relaxed);
}

static bool encode_prompts(struct call *c)
{
    const struct api_params *p = &c->params;
    const int32_t n = c->kind == API_CHAT ? 1 : p->n_prompts;
    c->prompt = calloc((size_t)n, sizeof *c->prompt);
    if (!c->prompt)
        return api_job_no_memory(&c->job);
    for (; c->n_prompts < n; c->n_prompts++) {
        struct api_prompt *out = &c->prompt[c->n_prompts];
        if (call_gone(c))
            return false;
        if (!api_prompt_encode(out, c->job.sv, p, c->n_prompts, &c->job.env, &c->job.error))
            return false;
        if (p->echo &&
            !api_prompt_keep_text(out, c->job.sv, &p->prompt[c->n_prompts], &c->job.error)) {
            c->n_prompts++; /* so that its ids are freed */
            return false;
        }
    }
    return true;
}

static bool refuse_length(struct call *c, int32_t n_prompt, int32_t n_max)
{
    const char *ask =
        c->params.max_completion_tokens != API_ABSENT ? "max_completion_tokens" : "max_tokens";
    if (n_max > 0)
        api_error_set(&c->job.error, 400, "context_length_exceeded", input_name(c),
                      "the context is %d tokens, but the prompt has %d and %s asks for %d",
                      c->job.env.context, n_prompt, ask, n_max);
    else
        api_error_set(
            &c->job.error, 400, "context_length_exceeded", input_name(c),
            "the context is %d tokens, but the prompt has %d and leaves no room to answer",
            c->job.env.context, n_prompt);
    return false;
}

/* How many tokens prompt i may get. */
static bool decide_length(struct call *c, int32_t n_prompt, int32_t *n_max)
{
    const struct api_params *p = &c->params;
    const int32_t rest = c->job.env.context - n_prompt;
    if (n_prompt < 1) {
        api_error_set(&c->job.error, 400, "empty_prompt", input_name(c), "%s gives no tokens",
                      input_name(c));
        return false;
    }
    *n_max = p->max_tokens;
    if (p->max_tokens == API_ABSENT) {
        const int32_t most = c->job.env.limits.output_tokens_max; /* 0 = the rest of the context */
        *n_max = c->kind == API_COMPLETIONS ? API_MAX_TOKENS_DEFAULT : most ? most : rest;
        if (*n_max > rest)
            *n_max = rest;
        if (*n_max < 1)
            return refuse_length(c, n_prompt, 0);
    }
    if (*n_max > rest)
        return refuse_length(c, n_prompt, *n_max);
    if (p->min_tokens <= *n_max)
        return true;
    api_error_set(&c->job.error, 400, "invalid_value", "min_tokens",
                  "min_tokens must be at most %d, the most tokens to generate, found %d", *n_max,
                  p->min_tokens);
    return false;
}

static bool make_bias(struct call *c)
{
    const struct api_params *p = &c->params;
    const size_t n = (size_t)p->n_bias + (size_t)c->n_stop_ids;
    if (n == 0)
        return true;
    c->bias = calloc(n, sizeof *c->bias);
    if (!c->bias)
        return api_job_no_memory(&c->job);
    if (p->n_bias)
        memcpy(c->bias, p->bias, (size_t)p->n_bias * sizeof *p->bias);
    c->n_bias = p->n_bias;
    for (int32_t i = 0; p->min_tokens > 0 && i < c->n_stop_ids; i++)
        c->bias[c->n_bias++] =
            (struct sample_bias){.id = c->stop_id[i], .bias = -INFINITY, .until = p->min_tokens};
    return true;
}

static void make_stop_ids(struct call *c)
{
    const struct api_params *p = &c->params;
    int32_t n = 0;
    const int32_t *end = tokenizer_ends(c->job.sv->tok, &n);
    for (int32_t i = 0; !p->ignore_eos && i < n && i < STOP_IDS_MAX - API_STOP_IDS_MAX; i++)
        c->stop_id[c->n_stop_ids++] = end[i];
    for (int32_t i = 0; i < p->n_stop_ids; i++)
        c->stop_id[c->n_stop_ids++] = p->stop_id[i];
}

/* Arrays of n entries of `size` bytes for each of k; at least one, so that NULL is no memory. */
static void *take_array(int32_t n, int32_t k, size_t size)
{
    const size_t count = (size_t)n * (size_t)k; /* both are small: context times TOP_LOGPROBS_MAX */
    return calloc(count ? count : 1, size);
}

static bool take_arrays(struct call *c, struct request *r)
{
    const int32_t n_top = r->sample.n_logprobs;
    r->out = take_array(r->n_max, 1, sizeof *r->out);
    bool ok = r->out;
    if (n_top > 0)
        ok &= (r->top = take_array(r->n_max, n_top, sizeof *r->top)) != NULL;
    if (r->score_prompt) {
        ok &= (r->score = take_array(r->n_prompt, 1, sizeof *r->score)) != NULL;
        if (n_top > 0)
            ok &= (r->score_top = take_array(r->n_prompt, n_top, sizeof *r->score_top)) != NULL;
    }
    return ok || api_job_no_memory(&c->job);
}

/* The prompt's first token follows nothing, so the scheduler never scores it. */
static void set_first_score(struct request *r)
{
    if (r->score)
        r->score[0] = (struct sample_out_slim){.id = r->prompt[0]};
}

static bool make_choice(struct call *c, struct choice *ch, int32_t prompt, int32_t nth)
{
    const struct api_params *p = &c->params;
    struct request *r = &ch->request;
    ch->call = c;
    ch->prompt = prompt;
    ch->index = prompt * p->n + nth;
    r->owner = ch;
    r->domain = c->domain;
    r->arrived_ns = c->arrived_ns;
    r->prompt = c->prompt[prompt].id;
    r->n_prompt = c->prompt[prompt].n;
    if (!decide_length(c, r->n_prompt, &r->n_max))
        return false;
    r->sample = p->sample;
    r->sample.seed = c->seed + (uint64_t)nth;
    r->bias = c->bias;
    r->n_bias = c->n_bias;
    r->stop_id = c->stop_id;
    r->n_stop_ids = c->n_stop_ids;
    r->n_min = p->min_tokens;
    for (int32_t i = 0; i < p->n_stops; i++)
        r->stop[i] = (struct stop_string){.at = p->stop[i], .n = p->stop_bytes[i]};
    r->n_stops = p->n_stops;
    if (p->echo && p->wants_logprobs)
        ch->scores = &(ch - nth)->request;
    r->score_prompt = ch->scores == r;
    api_text_init(&ch->text, c->job.sv->tok, r->n_min, r->stop, r->n_stops);
    if (!take_arrays(c, r))
        return false;
    set_first_score(r);
    return true;
}

static bool make_choices(struct call *c)
{
    const int32_t n = c->n_prompts * c->params.n; /* <= limits.choices_max */
    c->choice = calloc((size_t)n, sizeof *c->choice);
    if (!c->choice)
        return api_job_no_memory(&c->job);
    c->n_choices = n;
    for (int32_t i = 0; i < n; i++)
        if (!make_choice(c, &c->choice[i], i / c->params.n, i % c->params.n))
            return false;
    return true;
}

static bool make_seed(struct call *c)
{
    struct hash_key random;
    if (!hash_key_random(&random)) {
        api_error_set(&c->job.error, 500, "internal_error", "", "no random numbers");
        return false;
    }
    c->seed = c->params.has_seed ? c->params.sample.seed : random.k0;
    return true;
}

/* A salt makes a trust domain of its own inside that of the key. */
static void mix_salt(struct call *c)
{
    const struct hash_key key = {.k0 = c->domain.lo, .k1 = c->domain.hi};
    if (c->params.n_cache_salt)
        c->domain = siphash128(&key, c->params.cache_salt, (size_t)c->params.n_cache_salt);
}

bool call_build(struct call *c)
{
    if (!api_params_read(&c->params, c->kind, c->job.body, c->job.n_body, &c->job.env,
                         &c->job.error))
        return false;
    const struct api_shape *shape = c->kind == API_CHAT ? &api_shape_chat : &api_shape_completions;
    c->format.tok = c->job.sv->tok;
    c->format.include_usage = c->params.include_usage;
    if (!api_format_init(&c->format, shape, c->params.stream, &c->who))
        return api_job_no_memory(&c->job);
    if (!encode_prompts(c) || !make_seed(c))
        return false;
    api_params_drop_body(&c->params);
    mix_salt(c);
    make_stop_ids(c);
    return make_bias(c) && make_choices(c);
}
