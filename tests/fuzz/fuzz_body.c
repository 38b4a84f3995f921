/* fuzz_body.c - any bytes as the body of any generating endpoint: refused by name or taken, and what
 * was taken is inside every limit. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/json_scan.h"
#include "server/api_params.h"

static const struct api_env env = {
    .model_name = "m",
    .limits = {.body_bytes_max = 1 << 20,
               .prompts_max = 64,
               .choices_max = 128,
               .logprobs_max = 20,
               .logit_bias_max = 1024,
               .output_tokens_max = 4096},
    .vocab = 49152,
    .context = 2048,
};

static void must(bool ok)
{
    if (!ok)
        abort();
}

static void check_error(const struct api_error *e)
{
    struct buf out;
    struct status st = {0};
    enum json_fault fault;
    must(e->http_status >= 400 && e->http_status < 500 && e->code && e->message[0]);
    buf_init(&out, 65536);
    api_error_write(e, &out);
    must(!out.failed && json_scan(out.at, out.n, &json_limits_default, &fault, &st));
    buf_close(&out);
}

static void check_taken(const struct api_params *p)
{
    const struct sample_params *s = &p->sample;
    must(s->temperature >= 0 && s->temperature <= 2 && s->top_p > 0 && s->top_p <= 1);
    must(s->min_p >= 0 && s->min_p <= 1 && s->top_k >= 0 && s->n_logprobs <= 20);
    must(fabsf(s->presence) <= 2 && fabsf(s->frequency) <= 2 && s->repetition > 0);
    must(p->n >= 1 && p->n <= 128 && p->n * (p->n_prompts ? p->n_prompts : 1) <= 128);
    must(p->n_prompts <= 64 && p->n_bias <= 1024 && p->n_stops <= STOP_STRINGS_MAX);
    for (int32_t i = 0; i < p->n_bias; i++)
        must(p->bias[i].id >= 0 && p->bias[i].id < env.vocab && fabsf(p->bias[i].bias) <= 100);
    for (int32_t i = 0; i < p->n_stops; i++)
        must(p->stop_bytes[i] >= 1 && p->stop_bytes[i] <= STOP_BYTES_MAX);
    for (int32_t i = 0; i < p->n_stop_ids; i++)
        must(p->stop_id[i] >= 0 && p->stop_id[i] < env.vocab);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    static const enum api_kind kind[] = {API_COMPLETIONS, API_CHAT, API_TOKENIZE, API_DETOKENIZE};
    char *text = malloc(n + 1); /* a body ends in NUL, as api_job copies it */
    must(text != NULL);
    if (n)
        memcpy(text, bytes, n);
    text[n] = '\0';
    for (size_t k = 0; k < sizeof kind / sizeof kind[0]; k++) {
        struct api_params p;
        struct api_error e = {0};
        if (api_params_read(&p, kind[k], text, n, &env, &e)) {
            check_taken(&p);
            api_params_close(&p);
        } else {
            check_error(&e);
        }
    }
    free(text);
    return 0;
}
