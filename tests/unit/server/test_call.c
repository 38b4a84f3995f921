/* What api_call promises: a stream says what the whole answer says, token by token; whoever leaves,
 * whenever, everything is given back; what fails is one error and nothing after it.
 *
 * The calls run over the real scheduler and the fake engine, in one thread; the HTTP module
 * and the prep threads are replaced by the few functions below, so that a client can leave
 * between any two of them. */
#include "server/api.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <cjson/cJSON.h>

#include "base/hash.h"
#include "engine/chat.h"
#include "fake_tokenizer.h"
#include "server/metrics.h"

/* ---- the client's side of an exchange ---- */

struct exchange {
    struct buf body; /* of the request */
    void (*gone)(void *ctx);
    void *gone_ctx;
    enum fill (*fill)(void *ctx, struct buf *out, size_t room);
    void *fill_ctx;
    int status;        /* 0 <=> no answer yet */
    struct buf answer; /* whole, or the stream so far */
    bool streaming, woken, ended;
    int32_t retry_after_s;
    int32_t n_logged; /* http_log_tokens calls */
    int32_t n_output;
};

const char *http_body(const struct exchange *x, size_t *n)
{
    *n = x->body.n;
    return x->body.at ? x->body.at : "";
}

struct hash128 http_domain(const struct exchange *x)
{
    (void)x;
    return (struct hash128){1, 2};
}

uint64_t http_arrived_ns(const struct exchange *x)
{
    (void)x;
    return 5;
}

const char *http_path_rest(const struct exchange *x)
{
    return x->body.at ? x->body.at : "";
}

void http_set_gone(struct exchange *x, void (*gone)(void *ctx), void *ctx)
{
    assert_false(x->ended);
    x->gone = gone;
    x->gone_ctx = ctx;
}

void http_answer(struct exchange *x, int status, const char *content_type, struct buf *body)
{
    assert_int_equal(x->status, 0);
    assert_string_equal(content_type, "application/json");
    x->status = status;
    x->ended = true;
    x->answer = *body;
    *body = (struct buf){.n_max = body->n_max};
}

void http_fail(struct exchange *x, const struct api_error *e)
{
    assert_int_equal(x->status, 0);
    x->status = e->http_status;
    x->retry_after_s = e->retry_after_s;
    x->ended = true;
    api_error_write(e, &x->answer);
}

void http_stream(struct exchange *x, int status, const char *content_type,
                 enum fill (*fill)(void *ctx, struct buf *out, size_t room), void *ctx)
{
    assert_int_equal(x->status, 0);
    assert_string_equal(content_type, "text/event-stream");
    x->status = status;
    x->streaming = x->woken = true;
    x->fill = fill;
    x->fill_ctx = ctx;
}

void http_stream_wake(struct exchange *x)
{
    assert_true(x->streaming && !x->ended);
    x->woken = true;
}

void http_log_tokens(struct exchange *x, int32_t n_prompt, int32_t n_cached, int32_t n_output,
                     const char *finish)
{
    assert_true(n_prompt > 0 && n_cached >= 0 && finish[0]);
    x->n_logged++;
    x->n_output = n_output;
}

/* ---- the other parts of the daemon ---- */

static struct {
    void (*work)(void *), (*done)(void *);
    void *ctx;
} job[64];
static int n_jobs;
static bool prep_full;
static int64_t n_metrics, n_gap_tokens;

bool prep_submit(struct server *sv, void (*work)(void *ctx), void (*done)(void *ctx), void *ctx)
{
    (void)sv;
    if (prep_full || n_jobs == (int)(sizeof job / sizeof job[0]))
        return false;
    job[n_jobs].work = work;
    job[n_jobs].done = done;
    job[n_jobs++].ctx = ctx;
    return true;
}

void metrics_request(struct metrics *m, const struct request *r, uint64_t now_ns)
{
    (void)m, (void)now_ns;
    assert_true(request_finished(r));
    n_metrics++;
}

void metrics_inter_token(struct metrics *m, uint64_t gap_ns, int32_t n_tokens)
{
    (void)m, (void)gap_ns;
    n_gap_tokens += n_tokens;
}

/* Every message as "role:content;", nothing trusted. */
bool chat_template_render(const struct chat_template *t, const struct chat_input *in,
                          struct chat_output *out, struct status *st)
{
    (void)t;
    struct buf text;
    buf_init(&text, 1 << 20);
    const cJSON *m;
    cJSON_ArrayForEach(m, in->messages)
    {
        const cJSON *content = cJSON_GetObjectItemCaseSensitive(m, "content");
        if (!cJSON_IsString(content))
            return status_fail(st, STATUS_BAD_INPUT, "content must be a string");
        buf_printf(&text, "%s;", content->valuestring);
    }
    *out = (struct chat_output){.text = text.at, .n = text.n};
    return true;
}

void chat_output_close(struct chat_output *out)
{
    free(out->text);
    *out = (struct chat_output){0};
}

/* ---- one daemon ---- */

struct fixture {
    struct clock_fake clock;
    struct engine *engine;
    struct server sv;
    struct engine_fake_options fake;
};

static const struct engine_fake_options fake_default = {
    .limits = {.vocab = FAKE_VOCAB,
               .seqs_max = 8,
               .step_tokens_max = 64,
               .context_max = 128,
               .n_blocks = 64,
               .block_tokens = 4,
               .history_max = 1024,
               .bias_max = 2 * STEP_BIAS_MAX},
    .end_id = FAKE_END,
    .end_every = 40,
};

static void open_server(struct fixture *fx, const struct engine_fake_options *fake,
                        int32_t queue_max)
{
    struct status st = {0};
    memset(fx, 0, sizeof *fx);
    fx->fake = *fake;
    clock_fake_init(&fx->clock, NS_PER_S);
    fx->engine = engine_fake_open(&fx->fake, &fx->clock.clock, &st);
    assert_non_null(fx->engine);
    const struct scheduler_options o = {
        .queue_max = queue_max, .prefill_chunk_max = 16, .prefix_cache = true, .hash_key = {3, 4}};
    fx->sv = (struct server){.model_name = "m",
                             .clock = &fx->clock.clock,
                             .tok = &fake_tokenizer,
                             .chat = (const struct chat_template *)(const void *)fx,
                             .bos_text = "<s>",
                             .eos_text = "</s>",
                             .limits = {.body_bytes_max = 1 << 20,
                                        .prompts_max = 64,
                                        .choices_max = 128,
                                        .logprobs_max = 20,
                                        .logit_bias_max = 1024,
                                        .output_tokens_max = 4096}};
    fx->sv.sched = scheduler_open(&o, fx->engine, &fake_tokenizer, &fx->clock.clock, &st);
    assert_non_null(fx->sv.sched);
    for (int i = 0; i < 4; i++)
        scheduler_turn(fx->sv.sched);
    n_jobs = 0;
    prep_full = false;
    n_metrics = n_gap_tokens = 0;
}

static void check_idle(struct fixture *fx)
{
    struct scheduler_view v;
    struct status st = {0};
    scheduler_view(fx->sv.sched, &v);
    assert_int_equal(v.n_waiting + v.n_running, 0);
    assert_int_equal(v.n_blocks_free, v.n_blocks);
    if (!scheduler_valid(fx->sv.sched, &st))
        fail_msg("%s", st.msg);
    uint64_t n_finished = 0;
    for (int i = 0; i < 5; i++)
        n_finished += v.n_finished[i];
    assert_int_equal(n_metrics, n_finished);
}

static void close_server(struct fixture *fx)
{
    check_idle(fx);
    scheduler_close(fx->sv.sched);
}

static void run_jobs(void)
{
    const int n = n_jobs;
    for (int i = 0; i < n; i++)
        job[i].work(job[i].ctx);
    for (int i = 0; i < n; i++)
        job[i].done(job[i].ctx);
    memmove(job, job + n, (size_t)(n_jobs - n) * sizeof job[0]);
    n_jobs -= n;
}

static void turn(struct fixture *fx)
{
    fx->clock.ns += NS_PER_MS;
    scheduler_turn(fx->sv.sched);
    api_news(&fx->sv);
}

static void pump(struct exchange *x, size_t room)
{
    if (!x->streaming || x->ended || !x->woken)
        return;
    const size_t before = x->answer.n;
    if (x->fill(x->fill_ctx, &x->answer, room) == FILL_END)
        x->ended = true;
    else if (x->answer.n == before)
        x->woken = false;
}

static void open_exchange(struct exchange *x, const char *body)
{
    memset(x, 0, sizeof *x);
    buf_init(&x->body, 1 << 20);
    buf_init(&x->answer, 64 << 20);
    buf_put_str(&x->body, body);
}

static void close_exchange(struct exchange *x)
{
    buf_close(&x->body);
    buf_close(&x->answer);
}

typedef void handler(struct exchange *x, struct server *sv);

static void run_whole(struct fixture *fx, handler *h, const char *body, struct exchange *x)
{
    open_exchange(x, body);
    h(x, &fx->sv);
    run_jobs();
    for (int i = 0; i < 4000 && !x->ended; i++) {
        turn(fx);
        pump(x, 1 + (size_t)(i * 37 % 3000));
    }
    assert_true(x->ended);
}

static void settle_server(struct fixture *fx)
{
    struct scheduler_view v;
    for (int i = 0; i < 4000; i++) {
        turn(fx);
        scheduler_view(fx->sv.sched, &v);
        if (v.n_waiting + v.n_running == 0)
            break;
    }
    turn(fx);
    turn(fx);
}

/* ---- reading answers ---- */

enum { CHOICES_MAX = 8 };

struct said { /* what an answer or a stream says, in one form */
    struct buf text[CHOICES_MAX];
    struct buf logprobs[CHOICES_MAX]; /* the arrays of log-probabilities, one after the other */
    char finish[CHOICES_MAX][16];
    char usage[256];
    char error[512];
    bool done;
};

static void open_said(struct said *s)
{
    memset(s, 0, sizeof *s);
    for (int i = 0; i < CHOICES_MAX; i++) {
        buf_init(&s->text[i], 1 << 20);
        buf_init(&s->logprobs[i], 16 << 20);
        buf_put_str(&s->text[i], "");
        buf_put_str(&s->logprobs[i], "");
    }
}

static void close_said(struct said *s)
{
    for (int i = 0; i < CHOICES_MAX; i++) {
        buf_close(&s->text[i]);
        buf_close(&s->logprobs[i]);
    }
}

static const cJSON *get(const cJSON *o, const char *name)
{
    return cJSON_GetObjectItemCaseSensitive(o, name);
}

static void add_elements(struct buf *out, const cJSON *array)
{
    const cJSON *one;
    cJSON_ArrayForEach(one, array)
    {
        char *text = cJSON_PrintUnformatted(one);
        buf_put_str(out, text);
        buf_put_char(out, ' ');
        free(text);
    }
}

/* The four arrays go to one buffer each in turn, so that runs in several events join. */
static void add_logprobs(struct said *s, int i, const cJSON *l)
{
    static const char *const names[] = {"content", "tokens", "token_logprobs", "top_logprobs",
                                        "text_offset"};
    if (!l || cJSON_IsNull(l))
        return;
    const cJSON *tokens = get(l, "tokens");
    if (!tokens) {
        add_elements(&s->logprobs[i], get(l, names[0]));
        return;
    }
    for (int k = 0; k < cJSON_GetArraySize(tokens); k++) {
        for (int a = 1; a < 5; a++) {
            const cJSON *array = get(l, names[a]);
            assert_int_equal(cJSON_GetArraySize(array), cJSON_GetArraySize(tokens));
            char *text = cJSON_PrintUnformatted(cJSON_GetArrayItem(array, k));
            buf_put_str(&s->logprobs[i], text);
            buf_put_char(&s->logprobs[i], a == 4 ? '\n' : ' ');
            free(text);
        }
    }
}

static void add_choice(struct said *s, const cJSON *c)
{
    const int i = (int)get(c, "index")->valuedouble;
    assert_in_range(i, 0, CHOICES_MAX - 1);
    assert_int_equal(s->finish[i][0], 0); /* nothing follows the finish */
    const cJSON *text = get(c, "text");
    if (get(c, "message"))
        text = get(get(c, "message"), "content");
    if (get(c, "delta"))
        text = get(get(c, "delta"), "content");
    if (text)
        buf_put_str(&s->text[i], cJSON_GetStringValue(text));
    add_logprobs(s, i, get(c, "logprobs"));
    const cJSON *why = get(c, "finish_reason");
    if (cJSON_IsString(why))
        snprintf(s->finish[i], sizeof s->finish[i], "%s", why->valuestring);
}

static void add_object(struct said *s, const char *text, size_t n)
{
    cJSON *o = cJSON_ParseWithLength(text, n);
    if (!o)
        fail_msg("no JSON: %.*s", (int)n, text);
    const cJSON *c;
    cJSON_ArrayForEach(c, get(o, "choices"))
    {
        add_choice(s, c);
    }
    if (get(o, "usage") && !cJSON_IsNull(get(o, "usage"))) {
        char *usage = cJSON_PrintUnformatted(get(o, "usage"));
        snprintf(s->usage, sizeof s->usage, "%s", usage);
        free(usage);
    }
    if (get(o, "error"))
        snprintf(s->error, sizeof s->error, "%s", get(get(o, "error"), "message")->valuestring);
    cJSON_Delete(o);
}

static void read_stream(struct said *s, const char *at)
{
    while (*at) {
        const char *end = strstr(at, "\n\n");
        assert_non_null(end);
        assert_memory_equal(at, "data: ", 6);
        assert_false(s->done || s->error[0]); /* both are last */
        if (strncmp(at + 6, "[DONE]", 6) == 0)
            s->done = true;
        else
            add_object(s, at + 6, (size_t)(end - at - 6));
        at = end + 2;
    }
}

static void check_equal(const struct said *a, const struct said *b, const char *body)
{
    for (int i = 0; i < CHOICES_MAX; i++) {
        if (a->text[i].n != b->text[i].n || memcmp(a->text[i].at, b->text[i].at, a->text[i].n) != 0)
            fail_msg("%s: choice %d\n%s\n%s", body, i, a->text[i].at, b->text[i].at);
        if (strcmp(a->logprobs[i].at, b->logprobs[i].at) != 0)
            fail_msg("%s: choice %d\n%s\n%s", body, i, a->logprobs[i].at, b->logprobs[i].at);
        if (strcmp(a->finish[i], b->finish[i]) != 0)
            fail_msg("%s: choice %d: %s, %s", body, i, a->finish[i], b->finish[i]);
    }
}

/* ---- tests ---- */

static uint64_t rng = 11;

static uint32_t draw(uint32_t n)
{
    rng++;
    return (uint32_t)(hash64_mix(rng) % n);
}

static void draw_body(struct buf *b, bool chat)
{
    static const char *const stops[] = {",\"stop\":\"a\"",
                                        ",\"stop\":[\"hello\",\"\\u00e9\"]",
                                        ",\"stop\":[\" st\",\"stop\",\"op\"]",
                                        "",
                                        "",
                                        ""};
    buf_clear(b);
    buf_printf(b, "{\"model\":\"m\",\"seed\":%u,\"n\":%u", draw(1000), 1 + draw(3));
    if (chat)
        buf_printf(b, ",\"messages\":[{\"role\":\"user\",\"content\":\"q%u\"}]", draw(50));
    else if (draw(3))
        buf_printf(b, ",\"prompt\":\"a prompt of some length %u\"", draw(50));
    else
        buf_printf(b, ",\"prompt\":[[%u,270],[260,261,%u]]", draw(256), draw(256));
    if (draw(2))
        buf_printf(b, ",\"max_tokens\":%u", 3 + draw(40));
    buf_put_str(b, stops[draw(6)]);
    if (draw(3) == 0)
        buf_printf(b, ",\"min_tokens\":%u", draw(4));
    if (draw(4) == 0)
        buf_put_str(b, ",\"ignore_eos\":true");
    if (draw(4) == 0)
        buf_put_str(b, ",\"stop_token_ids\":[97,98,99]");
    if (chat && draw(2))
        buf_printf(b, ",\"logprobs\":true,\"top_logprobs\":%u", draw(4));
    if (!chat && draw(2))
        buf_printf(b, ",\"logprobs\":%u", draw(4));
    if (!chat && draw(2))
        buf_put_str(b, ",\"echo\":true");
}

static void a_stream_says_what_the_whole_answer_says(void **state)
{
    (void)state;
    struct fixture fx;
    struct buf body;
    int n_stop = 0, n_length = 0;
    open_server(&fx, &fake_default, 64);
    buf_init(&body, 65536);
    for (int trial = 0; trial < 300; trial++) {
        const bool chat = draw(2);
        handler *h = chat ? api_chat : api_completions;
        struct exchange whole, stream;
        struct said a, b;
        draw_body(&body, chat);
        const size_t n = body.n;
        buf_put_str(&body, "}");
        run_whole(&fx, h, body.at, &whole);
        body.n = n;
        buf_put_str(&body, ",\"stream\":true,\"stream_options\":{\"include_usage\":true}}");
        run_whole(&fx, h, body.at, &stream);
        if (whole.status != 200 || stream.status != 200)
            fail_msg("%s\n%s", body.at, whole.answer.at);
        open_said(&a);
        open_said(&b);
        add_object(&a, whole.answer.at, whole.answer.n);
        read_stream(&b, stream.answer.at);
        assert_true(b.done);
        check_equal(&a, &b, body.at);
        assert_true(a.usage[0] && b.usage[0]);
        assert_int_equal(whole.n_logged, 1);
        assert_int_equal(stream.n_logged, 1);
        assert_int_equal(whole.n_output, stream.n_output);
        n_stop += strcmp(a.finish[0], "stop") == 0;
        n_length += strcmp(a.finish[0], "length") == 0;
        close_said(&a);
        close_said(&b);
        close_exchange(&whole);
        close_exchange(&stream);
    }
    assert_true(n_stop > 30 && n_length > 30);
    assert_true(n_gap_tokens > 0);
    buf_close(&body);
    close_server(&fx);
}

/* The tokens come from the fake engine's own rule, the text from decoding them all at once. */
static void the_answer_is_the_text_of_the_engines_tokens(void **state)
{
    (void)state;
    struct fixture fx;
    struct exchange x;
    struct said s;
    struct buf want;
    int32_t ids[128];
    int32_t n = 0;
    open_server(&fx, &fake_default, 64);
    fx.fake.end_every = 0;
    run_whole(&fx, api_completions,
              "{\"model\":\"m\",\"prompt\":\"what\",\"max_tokens\":60,\"seed\":9,\"n\":2,"
              "\"ignore_eos\":true}",
              &x);
    open_said(&s);
    add_object(&s, x.answer.at, x.answer.n);
    for (int choice = 0; choice < 2; choice++) {
        buf_init(&want, 65536);
        n = 0;
        ids[n++] = FAKE_BOS;
        for (const char *c = "what"; *c; c++)
            ids[n++] = *c;
        struct detok d = {0};
        for (int i = 0; i < 60; i++, n++) {
            char text[256];
            size_t n_bytes;
            ids[n] = engine_fake_token(&fake_default, 9 + (uint64_t)choice, ids, n);
            const char *bytes = tokenizer_bytes(&fake_tokenizer, ids[n], false, &n_bytes);
            buf_put(&want, text, detok_feed(&d, bytes, n_bytes, text));
        }
        char text[16];
        buf_put(&want, text, detok_finish(&d, text));
        cJSON *o = cJSON_Parse(x.answer.at);
        struct buf escaped;
        buf_init(&escaped, 65536);
        buf_put_str(&escaped, "\"text\":\"");
        buf_put_json(&escaped, want.at, want.n);
        buf_put_str(&escaped, "\",\"logprobs\"");
        if (!strstr(x.answer.at, escaped.at))
            fail_msg("choice %d: want %s\nin %s", choice, escaped.at, x.answer.at);
        assert_string_equal(s.finish[choice], "length");
        cJSON_Delete(o);
        buf_close(&escaped);
        buf_close(&want);
    }
    assert_non_null(strstr(s.usage, "\"prompt_tokens\":5,\"completion_tokens\":120,"
                                    "\"total_tokens\":125"));
    close_said(&s);
    close_exchange(&x);
    close_server(&fx);
}

static void echo_scores_the_prompt(void **state)
{
    (void)state;
    struct fixture fx;
    struct exchange x;
    open_server(&fx, &fake_default, 64);
    run_whole(&fx, api_completions,
              "{\"model\":\"m\",\"prompt\":\"ab\xc3\xa9\",\"max_tokens\":0,\"echo\":true,"
              "\"logprobs\":0}",
              &x);
    assert_int_equal(x.status, 200);
    cJSON *o = cJSON_Parse(x.answer.at);
    const cJSON *c = get(o, "choices")->child;
    assert_string_equal(get(c, "text")->valuestring, "ab\xc3\xa9");
    assert_string_equal(get(c, "finish_reason")->valuestring, "length");
    const cJSON *l = get(c, "logprobs");
    const int32_t ids[] = {FAKE_BOS, 'a', 'b', 0xc3, 0xa9};
    const int offsets[] = {0, 0, 1, 2, 2};
    assert_int_equal(cJSON_GetArraySize(get(l, "tokens")), 5);
    assert_string_equal(cJSON_GetArrayItem(get(l, "tokens"), 0)->valuestring, "<s>");
    assert_true(cJSON_IsNull(cJSON_GetArrayItem(get(l, "token_logprobs"), 0)));
    for (int i = 1; i < 5; i++) {
        const double got = cJSON_GetArrayItem(get(l, "token_logprobs"), i)->valuedouble;
        assert_true(fabs(got - (double)engine_fake_logprob(ids, i, ids[i])) < 1e-5);
        assert_int_equal(cJSON_GetArrayItem(get(l, "text_offset"), i)->valuedouble, offsets[i]);
    }
    cJSON_Delete(o);
    close_exchange(&x);
    close_server(&fx);
}

static void choices_of_one_prompt_score_it_once(void **state)
{
    (void)state;
    static const char text[] = "a prompt of fifty bytes, that is of twelve blocks.";
    struct fixture fx;
    struct exchange x;
    struct scheduler_view v;
    char body[256];
    int32_t ids[sizeof text] = {FAKE_BOS};
    for (size_t i = 1; i < sizeof text; i++)
        ids[i] = text[i - 1];
    open_server(&fx, &fake_default, 64);
    snprintf(body, sizeof body,
             "{\"model\":\"m\",\"prompt\":\"%s\",\"n\":3,\"max_tokens\":4,\"echo\":true,"
             "\"logprobs\":2,\"ignore_eos\":true}",
             text);
    run_whole(&fx, api_completions, body, &x);
    assert_int_equal(x.status, 200);
    cJSON *o = cJSON_Parse(x.answer.at);
    assert_int_equal(cJSON_GetArraySize(get(o, "choices")), 3);
    const cJSON *c;
    cJSON_ArrayForEach(c, get(o, "choices"))
    {
        const cJSON *l = get(c, "logprobs");
        assert_int_equal(cJSON_GetArraySize(get(l, "tokens")), (int)sizeof text + 4);
        for (int i = 1; i < (int)sizeof text; i++) {
            const double got = cJSON_GetArrayItem(get(l, "token_logprobs"), i)->valuedouble;
            assert_true(fabs(got - (double)engine_fake_logprob(ids, i, ids[i])) < 1e-5);
            assert_int_equal(cJSON_GetArraySize(cJSON_GetArrayItem(get(l, "top_logprobs"), i)), 2);
        }
    }
    scheduler_view(fx.sv.sched, &v);
    assert_int_equal(v.n_prompt_tokens, 3 * sizeof text);
    assert_int_equal(v.n_cached_tokens, 2 * 48); /* all but what one choice computed */
    cJSON_Delete(o);
    close_exchange(&x);
    close_server(&fx);
}

/* A client that leaves after `when` of the events of its call; every event has its turn. */
static void whoever_leaves_whenever_gives_everything_back(void **state)
{
    (void)state;
    static const char *const body[] = {
        "{\"model\":\"m\",\"prompt\":[\"abcdefghijklmnopqrstuvwxyz "
        "abcdefghijklmnopqrstuvwxyz\",\"b\"],"
        "\"n\":3,\"max_tokens\":20,\"stream\":true,\"logprobs\":2,\"echo\":true}",
        "{\"model\":\"m\",\"prompt\":\"a\",\"n\":4,\"max_tokens\":20,\"stop\":[\"zz\"]}",
    };
    struct fixture fx;
    open_server(&fx, &fake_default, 64);
    for (int b = 0; b < 2; b++) {
        bool ended = false;
        for (int when = 0; when < 200 && !ended; when++) {
            struct exchange x;
            int at = 0;
            open_exchange(&x, body[b]);
            api_completions(&x, &fx.sv);
            for (int i = 0; at < when && !x.ended; i++, at++) {
                if (i == 0)
                    run_jobs();
                else if (i % 2)
                    turn(&fx);
                else
                    pump(&x, 500);
            }
            ended = x.ended;
            void (*gone)(void *) = x.ended ? NULL : x.gone;
            assert_true(x.ended || gone);
            x.ended = true; /* from now on nobody may touch it */
            if (gone)
                gone(x.gone_ctx);
            close_exchange(&x);
            run_jobs();
            settle_server(&fx);
            check_idle(&fx);
        }
        assert_true(ended);
    }
    close_server(&fx);
}

static void a_client_that_leaves_during_prep_is_never_submitted(void **state)
{
    (void)state;
    struct fixture fx;
    struct exchange x;
    open_server(&fx, &fake_default, 64);
    open_exchange(&x, "{\"model\":\"m\",\"prompt\":\"a\"}");
    api_completions(&x, &fx.sv);
    job[0].work(job[0].ctx);
    x.gone(x.gone_ctx);
    x.ended = true;
    job[0].done(job[0].ctx);
    n_jobs = 0;
    settle_server(&fx);
    assert_int_equal(n_metrics, 0);
    assert_int_equal(x.status, 0);
    close_exchange(&x);
    close_server(&fx);
}

/* Number of log-probabilities in a stream.  One that nobody computed is 0; the fake engine's are
 * below, or -0. */
static int count_scores(const char *at)
{
    int n = 0;
    for (const char *end; (end = strstr(at, "\n\n")); at = end + 2) {
        cJSON *o = cJSON_ParseWithLength(at + 6, (size_t)(end - at - 6));
        const cJSON *one, *choices = o ? get(o, "choices") : NULL;
        const cJSON *l = choices && choices->child ? get(choices->child, "logprobs") : NULL;
        const cJSON *scores = l ? get(l, "token_logprobs") : NULL;
        cJSON_ArrayForEach(one, scores)
        {
            if (!cJSON_IsNull(one))
                assert_true(signbit(one->valuedouble));
            n++;
        }
        cJSON_Delete(o);
    }
    return n;
}

static void a_prompt_that_was_not_scored_is_not_echoed(void **state)
{
    (void)state;
    struct engine_fake_options fake = fake_default;
    struct fixture fx;
    int n_cut = 0;
    fake.nan_every = 20;
    fake.end_every = 0;
    open_server(&fx, &fake, 64);
    for (int seed = 0; seed < 100; seed++) {
        struct exchange x;
        char body[256];
        snprintf(body, sizeof body,
                 "{\"model\":\"m\",\"prompt\":[\"a\",\"a prompt in more than one chunk\"],"
                 "\"seed\":%d,\"max_tokens\":30,\"stream\":true,\"echo\":true,\"logprobs\":0}",
                 seed);
        run_whole(&fx, api_completions, body, &x);
        if (x.streaming && strstr(x.answer.at, "\"error\""))
            n_cut += count_scores(x.answer.at) > 0;
        close_exchange(&x);
    }
    assert_true(n_cut > 0);
    close_server(&fx);
}

static void a_failed_sample_ends_its_call_with_one_error(void **state)
{
    (void)state;
    struct engine_fake_options fake = fake_default;
    struct fixture fx;
    int n_early = 0, n_late = 0;
    fake.nan_every = 12;
    fake.end_every = 0;
    open_server(&fx, &fake, 64);
    for (int seed = 0; seed < 100; seed++) {
        for (int stream = 0; stream < 2; stream++) {
            struct exchange x;
            struct said s;
            char body[256];
            snprintf(body, sizeof body,
                     "{\"model\":\"m\",\"prompt\":\"p%d\",\"seed\":%d,\"n\":2,"
                     "\"max_tokens\":100,\"stream\":%s}",
                     seed, seed, stream ? "true" : "false");
            run_whole(&fx, api_completions, body, &x);
            open_said(&s);
            if (x.streaming)
                read_stream(&s, x.answer.at);
            else
                add_object(&s, x.answer.at, x.answer.n);
            assert_true(s.error[0]);
            assert_false(s.done);
            if (x.streaming)
                n_late++;
            else
                assert_int_equal(x.status, 500);
            n_early += stream && !x.streaming;
            close_said(&s);
            close_exchange(&x);
            settle_server(&fx);
            check_idle(&fx);
        }
    }
    if (n_early < 1 || n_late < 10)
        fail_msg("%d before the first token, %d after", n_early, n_late);
    close_server(&fx);
}

static void a_full_queue_refuses_the_whole_call_and_says_when_to_come_back(void **state)
{
    (void)state;
    struct fixture fx;
    struct exchange x;
    open_server(&fx, &fake_default, 2);
    open_exchange(&x, "{\"model\":\"m\",\"prompt\":\"a\",\"n\":64}");
    api_completions(&x, &fx.sv);
    run_jobs();
    assert_int_equal(x.status, 429);
    assert_true(x.retry_after_s >= 1);
    settle_server(&fx);
    close_exchange(&x);
    close_server(&fx);
}

static void a_call_of_one_finishes_while_the_engine_dies_under_it(void **state)
{
    (void)state;
    struct fixture fx;
    struct exchange calm, hit;
    struct said a, b;
    static const char body[] = "{\"model\":\"m\",\"prompt\":\"abc\",\"seed\":5,\"max_tokens\":60,"
                               "\"ignore_eos\":true,\"stream\":true}";
    open_server(&fx, &fake_default, 64);
    run_whole(&fx, api_completions, body, &calm);
    open_exchange(&hit, body);
    api_completions(&hit, &fx.sv);
    run_jobs();
    for (int i = 0; i < 4000 && !hit.ended; i++) {
        turn(&fx);
        pump(&hit, 4000);
        if (i == 15 || i == 40)
            engine_fake_die(fx.engine);
        if (i > 15)
            fx.clock.ns += NS_PER_S;
    }
    assert_true(hit.ended);
    open_said(&a);
    open_said(&b);
    read_stream(&a, calm.answer.at);
    read_stream(&b, hit.answer.at);
    assert_true(a.done && b.done);
    check_equal(&a, &b, body);
    close_said(&a);
    close_said(&b);
    close_exchange(&calm);
    close_exchange(&hit);
    close_server(&fx);
}

struct refused {
    const char *name;
    handler *h;
    const char *body;
    int status;
    const char *words[3];
};

static void what_cannot_run_is_refused_with_the_numbers(void **state)
{
    (void)state;
    static const struct refused t[] = {
        {"too long to answer",
         api_completions,
         "{\"model\":\"m\",\"prompt\":\"abc\",\"max_tokens\":125}",
         400,
         {"context_length_exceeded", "128", "125"}},
        {"chat too long to answer",
         api_chat,
         "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"abc\"}],"
         "\"max_completion_tokens\":125}",
         400,
         {"context_length_exceeded", "max_completion_tokens", "125"}},
        {"prompt too long",
         api_completions,
         "{\"model\":\"m\",\"prompt\":"
         "\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
         "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"}",
         400,
         {"context_length_exceeded", "128", "\"param\":\"prompt\""}},
        {"template refuses",
         api_chat,
         "{\"model\":\"m\",\"messages\":[{\"role\":\"assistant\",\"content\":null}]}",
         400,
         {"messages", "content must be a string", ""}},
        {"min_tokens above what is left",
         api_chat,
         "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"abc\"}],"
         "\"min_tokens\":126}",
         400,
         {"min_tokens", "124", "126"}},
        {"no model",
         api_completions,
         "{\"model\":\"x\",\"prompt\":\"a\"}",
         404,
         {"model_not_found", "model", ""}},
    };
    struct fixture fx;
    open_server(&fx, &fake_default, 64);
    for (size_t i = 0; i < sizeof t / sizeof t[0]; i++) {
        struct exchange x;
        run_whole(&fx, t[i].h, t[i].body, &x);
        if (x.status != t[i].status)
            fail_msg("%s: %d %s", t[i].name, x.status, x.answer.at);
        for (int k = 0; k < 3; k++)
            if (!strstr(x.answer.at, t[i].words[k]))
                fail_msg("%s: no %s in %s", t[i].name, t[i].words[k], x.answer.at);
        close_exchange(&x);
    }
    assert_int_equal(n_metrics, 0);
    close_server(&fx);
}

static void weights_quantized_otherwise_have_another_fingerprint(void **state)
{
    (void)state;
    static const char *const schemes[] = {"nf4", "fp4", "nf4"};
    char found[3][64];
    for (int i = 0; i < 3; i++) {
        struct fixture fx;
        struct exchange x;
        open_server(&fx, &fake_default, 8);
        fx.sv.weights_as[0] = schemes[i];
        run_whole(&fx, api_completions, "{\"model\":\"m\",\"prompt\":\"a\",\"max_tokens\":1}", &x);
        const char *at = strstr(x.answer.at, "\"system_fingerprint\":\"fp_");
        assert_non_null(at);
        snprintf(found[i], sizeof found[i], "%.40s", at);
        close_exchange(&x);
        close_server(&fx);
    }
    assert_string_not_equal(found[0], found[1]);
    assert_string_equal(found[0], found[2]);
}

static void the_last_token_of_the_context_can_be_used(void **state)
{
    (void)state;
    struct fixture fx;
    struct exchange x;
    open_server(&fx, &fake_default, 64);
    run_whole(&fx, api_completions,
              "{\"model\":\"m\",\"prompt\":\"abc\",\"max_tokens\":124,\"ignore_eos\":true}", &x);
    assert_int_equal(x.status, 200);
    assert_non_null(strstr(x.answer.at, "\"total_tokens\":128"));
    close_exchange(&x);
    close_server(&fx);
}

static void a_draining_or_busy_server_takes_nothing_new(void **state)
{
    (void)state;
    struct fixture fx;
    struct exchange x;
    open_server(&fx, &fake_default, 64);
    fx.sv.draining = true;
    run_whole(&fx, api_completions, "{\"model\":\"m\",\"prompt\":\"a\"}", &x);
    assert_int_equal(x.status, 503);
    assert_true(x.retry_after_s >= 1);
    close_exchange(&x);
    fx.sv.draining = false;
    prep_full = true;
    run_whole(&fx, api_tokenize, "{\"prompt\":\"a\"}", &x);
    assert_int_equal(x.status, 503);
    assert_true(x.retry_after_s >= 1);
    close_exchange(&x);
    close_server(&fx);
}

static void tokenize_and_detokenize_are_inverse(void **state)
{
    (void)state;
    struct fixture fx;
    struct exchange x;
    open_server(&fx, &fake_default, 64);
    run_whole(&fx, api_tokenize,
              "{\"model\":\"m\",\"prompt\":\"h\xc3\xa9\",\"return_token_strs\":true}", &x);
    assert_string_equal(x.answer.at,
                        "{\"count\":4,\"max_model_len\":128,\"tokens\":[256,104,195,169],"
                        "\"token_strs\":[\"<s>\",\"h\",\"\xef\xbf\xbd\",\"\xef\xbf\xbd\"]}");
    close_exchange(&x);
    run_whole(&fx, api_tokenize, "{\"messages\":[{\"role\":\"user\",\"content\":\"h\"}]}", &x);
    assert_string_equal(x.answer.at, "{\"count\":2,\"max_model_len\":128,\"tokens\":[104,59],"
                                     "\"token_strs\":null}");
    close_exchange(&x);
    run_whole(&fx, api_detokenize, "{\"tokens\":[256,104,195,169]}", &x);
    assert_string_equal(x.answer.at, "{\"prompt\":\"<s>h\xc3\xa9\"}");
    close_exchange(&x);
    run_whole(&fx, api_detokenize, "{\"tokens\":[]}", &x);
    assert_string_equal(x.answer.at, "{\"prompt\":\"\"}");
    close_exchange(&x);
    close_server(&fx);
}

static void models_lists_the_one_model(void **state)
{
    (void)state;
    struct fixture fx;
    struct exchange x;
    open_server(&fx, &fake_default, 64);
    fx.sv.started_unix_s = 77;
    open_exchange(&x, "");
    api_models(&x, &fx.sv);
    assert_string_equal(
        x.answer.at,
        "{\"object\":\"list\",\"data\":[{\"id\":\"m\",\"object\":\"model\",\"created\":"
        "77,\"owned_by\":\"inferd\",\"max_model_len\":128}]}");
    close_exchange(&x);
    open_exchange(&x, "m");
    api_model(&x, &fx.sv);
    assert_int_equal(x.status, 200);
    close_exchange(&x);
    open_exchange(&x, "../m");
    api_model(&x, &fx.sv);
    assert_int_equal(x.status, 404);
    close_exchange(&x);
    close_server(&fx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stream_says_what_the_whole_answer_says),
        cmocka_unit_test(the_answer_is_the_text_of_the_engines_tokens),
        cmocka_unit_test(echo_scores_the_prompt),
        cmocka_unit_test(choices_of_one_prompt_score_it_once),
        cmocka_unit_test(whoever_leaves_whenever_gives_everything_back),
        cmocka_unit_test(a_client_that_leaves_during_prep_is_never_submitted),
        cmocka_unit_test(a_prompt_that_was_not_scored_is_not_echoed),
        cmocka_unit_test(a_failed_sample_ends_its_call_with_one_error),
        cmocka_unit_test(a_full_queue_refuses_the_whole_call_and_says_when_to_come_back),
        cmocka_unit_test(a_call_of_one_finishes_while_the_engine_dies_under_it),
        cmocka_unit_test(what_cannot_run_is_refused_with_the_numbers),
        cmocka_unit_test(weights_quantized_otherwise_have_another_fingerprint),
        cmocka_unit_test(the_last_token_of_the_context_can_be_used),
        cmocka_unit_test(a_draining_or_busy_server_takes_nothing_new),
        cmocka_unit_test(tokenize_and_detokenize_are_inverse),
        cmocka_unit_test(models_lists_the_one_model),
    };
    return cmocka_run_group_tests_name("api_call", tests, NULL, NULL);
}
