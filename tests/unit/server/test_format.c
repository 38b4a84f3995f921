/* What api_format promises: the exact bytes of OpenAI's answers and events, always valid JSON, and
 * no text of a token can forge a frame of the stream. */
#include "server/api_format.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "base/json_scan.h"
#include "fake_tokenizer.h"
#include "server/api_call.h"

/* The handlers beside the shapes reach for this; a test of formats opens no call. */
void api_call_open(struct exchange *x, struct server *sv, enum api_kind kind)
{
    (void)x, (void)sv, (void)kind;
    fail();
}

struct fixture {
    struct api_format f;
    struct buf out;
};

static void open_format(struct fixture *fx, const struct api_shape *shape, bool stream, bool usage)
{
    const struct api_identity who = {
        .model = "m\"1", .id = {1, 0xab}, .created = 1700000000, .fingerprint = 0xf00d};
    *fx = (struct fixture){.f = {.tok = &fake_tokenizer, .include_usage = usage}};
    assert_true(api_format_init(&fx->f, shape, stream, &who));
    buf_init(&fx->out, 1 << 20);
}

static void close_format(struct fixture *fx)
{
    api_format_close(&fx->f);
    buf_close(&fx->out);
}

static void check_json(const char *text, size_t n)
{
    struct status st = {0};
    enum json_fault fault;
    if (!json_scan(text, n, &json_limits_default, &fault, &st))
        fail_msg("%s in %.*s", st.msg, (int)n, text);
}

#define HEAD(object)                                                                               \
    "data: {\"id\":\"%s000000000000000100000000000000ab\",\"object\":\"" object                    \
    "\",\"created\":1700000000,\"model\":\"m\\\"1\",\"system_fingerprint\":"                       \
    "\"fp_000000000000f00d\",\"choices\":["

static void check_out(struct fixture *fx, const char *head, const char *id, const char *tail)
{
    struct buf want;
    buf_init(&want, 1 << 20);
    const char *mark = strstr(head, "%s");
    buf_put(&want, head, (size_t)(mark - head));
    buf_put_str(&want, id);
    buf_put_str(&want, mark + 2);
    buf_put_str(&want, tail);
    assert_string_equal(fx->out.at, want.at);
    check_json(fx->out.at + 6, fx->out.n - 8);
    buf_close(&want);
    buf_clear(&fx->out);
}

static void events_of_completions_have_openais_form(void **state)
{
    (void)state;
    struct fixture fx;
    open_format(&fx, &api_shape_completions, true, false);
    api_put_first(&fx.f, &fx.out, 0);
    assert_int_equal(fx.out.n, 0);
    api_put_piece(&fx.f, &fx.out, &(struct api_piece){.index = 3, .text = "a\n\"", .n = 3});
    check_out(&fx, HEAD("text_completion"), "cmpl-",
              "{\"index\":3,\"text\":\"a\\n\\\"\",\"logprobs\":null,\"finish_reason\":null}]}\n\n");
    api_put_last(&fx.f, &fx.out, 3, FINISH_LENGTH);
    check_out(&fx, HEAD("text_completion"), "cmpl-",
              "{\"index\":3,\"text\":\"\",\"logprobs\":null,\"finish_reason\":\"length\"}]}\n\n");
    close_format(&fx);
}

static void events_of_chat_have_openais_form(void **state)
{
    (void)state;
    struct fixture fx;
    open_format(&fx, &api_shape_chat, true, true);
    api_put_first(&fx.f, &fx.out, 0);
    check_out(&fx, HEAD("chat.completion.chunk"), "chatcmpl-",
              "{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,"
              "\"finish_reason\":null}],\"usage\":null}\n\n");
    api_put_piece(&fx.f, &fx.out, &(struct api_piece){.index = 0, .text = "\xc3\xa9", .n = 2});
    check_out(&fx, HEAD("chat.completion.chunk"), "chatcmpl-",
              "{\"index\":0,\"delta\":{\"content\":\"\xc3\xa9\"},\"logprobs\":null,"
              "\"finish_reason\":null}],\"usage\":null}\n\n");
    api_put_last(&fx.f, &fx.out, 0, FINISH_STOP);
    check_out(&fx, HEAD("chat.completion.chunk"), "chatcmpl-",
              "{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"stop\"}],"
              "\"usage\":null}\n\n");
    api_put_usage_event(&fx.f, &fx.out, &(struct api_usage){5, 7, 4});
    check_out(&fx, HEAD("chat.completion.chunk"), "chatcmpl-",
              "],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":7,\"total_tokens\":12,"
              "\"prompt_tokens_details\":{\"cached_tokens\":4}}}\n\n");
    close_format(&fx);
}

/* é, half of €, the other half, a special token: with one alternative each. */
static const struct sample_out_slim token[] = {
    {260, -0.5f}, {261, -1.0f}, {262, -INFINITY}, {FAKE_END, -2.0f}};
static const struct top_logprob top[] = {{260, -0.5f}, {'x', -0.25f}, {-1, 0}, {'y', -0.125f}};
static const struct api_run run = {.token = token, .top = top, .n = 4, .n_top = 1};

static void logprobs_of_completions_are_four_arrays(void **state)
{
    (void)state;
    struct fixture fx;
    struct api_offset offset = {.n_chars = 10};
    open_format(&fx, &api_shape_completions, false, false);
    api_put_logprobs(&fx.f, &fx.out,
                     &(struct api_piece){.run = &run, .n_runs = 1, .offset = &offset});
    assert_string_equal(
        fx.out.at,
        ",\"logprobs\":{\"tokens\":[\"\xc3\xa9\",\"bytes:\\\\xe2\\\\x82\","
        "\"bytes:\\\\xac\",\"</s>\"],\"token_logprobs\":[-0.5,-1,-9999,-2],"
        "\"top_logprobs\":[{\"\xc3\xa9\":-0.5},{\"x\":-0.25,\"bytes:\\\\xe2\\\\x82\":-1},"
        "{\"bytes:\\\\xac\":-9999},{\"y\":-0.125,\"</s>\":-2}],"
        "\"text_offset\":[10,11,11,12]}");
    check_json(fx.out.at + 12, fx.out.n - 12);
    close_format(&fx);
}

static void logprobs_of_chat_are_one_list_with_bytes(void **state)
{
    (void)state;
    struct fixture fx;
    struct api_offset offset = {0};
    const struct api_run two = {.token = token, .top = top, .n = 2, .n_top = 1};
    open_format(&fx, &api_shape_chat, false, false);
    api_put_logprobs(&fx.f, &fx.out,
                     &(struct api_piece){.run = &two, .n_runs = 1, .offset = &offset});
    assert_string_equal(
        fx.out.at,
        ",\"logprobs\":{\"content\":[{\"token\":\"\xc3\xa9\",\"logprob\":-0.5,\"bytes\":[195,169],"
        "\"top_logprobs\":[{\"token\":\"\xc3\xa9\",\"logprob\":-0.5,\"bytes\":[195,169]}]},"
        "{\"token\":\"\xef\xbf\xbd\xef\xbf\xbd\",\"logprob\":-1,\"bytes\":[226,130],"
        "\"top_logprobs\":[{\"token\":\"x\",\"logprob\":-0.25,\"bytes\":[120]}]}],"
        "\"refusal\":null}");
    check_json(fx.out.at + 12, fx.out.n - 12);
    close_format(&fx);
}

static void the_first_token_of_a_prompt_has_no_logprob(void **state)
{
    (void)state;
    struct fixture fx;
    struct api_offset offset = {0};
    const struct sample_out_slim score[] = {{'a', 0}, {'b', -3.0f}};
    const struct api_run prompt = {.token = score, .n = 2, .first_unknown = true};
    open_format(&fx, &api_shape_completions, false, false);
    api_put_logprobs(&fx.f, &fx.out,
                     &(struct api_piece){.run = &prompt, .n_runs = 1, .offset = &offset});
    assert_string_equal(fx.out.at, ",\"logprobs\":{\"tokens\":[\"a\",\"b\"],\"token_logprobs\":"
                                   "[null,-3],\"top_logprobs\":[null,{\"b\":-3}],"
                                   "\"text_offset\":[0,1]}");
    close_format(&fx);
}

static void no_token_text_can_forge_an_event(void **state)
{
    (void)state;
    static const struct api_shape *const shape[] = {&api_shape_completions, &api_shape_chat};
    for (int s = 0; s < 2; s++) {
        for (int32_t id = 0; id < FAKE_VOCAB; id++) {
            struct fixture fx;
            struct api_offset offset = {0};
            size_t n;
            const char *bytes = tokenizer_bytes(&fake_tokenizer, id, true, &n);
            const struct sample_out_slim one = {id, -1};
            const struct top_logprob alt[] = {{id, -1}, {id, -2}};
            const struct api_run r = {.token = &one, .top = alt, .n = 1, .n_top = 2};
            open_format(&fx, shape[s], true, true);
            api_put_piece(&fx.f, &fx.out,
                          &(struct api_piece){
                              .text = bytes, .n = n, .run = &r, .n_runs = 1, .offset = &offset});
            assert_memory_equal(fx.out.at, "data: ", 6);
            assert_ptr_equal(strstr(fx.out.at, "\n"), fx.out.at + fx.out.n - 2);
            if (id != 0) /* \u0000 is JSON, but json_scan takes it from nobody */
                check_json(fx.out.at + 6, fx.out.n - 8);
            close_format(&fx);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(events_of_completions_have_openais_form),
        cmocka_unit_test(events_of_chat_have_openais_form),
        cmocka_unit_test(logprobs_of_completions_are_four_arrays),
        cmocka_unit_test(logprobs_of_chat_are_one_list_with_bytes),
        cmocka_unit_test(the_first_token_of_a_prompt_has_no_logprob),
        cmocka_unit_test(no_token_text_can_forge_an_event),
    };
    return cmocka_run_group_tests_name("api_format", tests, NULL, NULL);
}
