#include "server/bench_http.h"

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/buf.h"
#include "server/bench_load.h"

enum { SPARE_FDS = 16, REPORT_BYTES_MAX = 1 << 20, OPEN_CLIENTS_MAX = 10000 };

enum number { CONCURRENCY, REQUESTS, MAX_TOKENS, PROMPT_TOKENS, STALLED, TIME_S, N_NUMBERS };

struct bench {
    struct load_options load;
    bool json, has_url;
    bool is_set[N_NUMBERS];
    char model[256];
};

/* ---- options ---- */

static const struct {
    const char *name;
    long min, max;
} numbers[N_NUMBERS] = {
    {"concurrency", 1, 100000},    {"requests", 1, 100000000}, {"max-tokens", 1, 1000000},
    {"prompt-tokens", 1, 1000000}, {"stalled", 0, 10000},      {"time-s", 1, 86400},
};

static bool set_number(struct load_options *o, enum number what, const char *text,
                       struct status *st)
{
    int32_t *const at[N_NUMBERS] = {&o->concurrency,   &o->n_requests, &o->max_tokens,
                                    &o->prompt_tokens, &o->n_stalled,  &o->time_s};
    char *end;
    const long v = strtol(text, &end, 10);
    if (end == text || *end || v < numbers[what].min || v > numbers[what].max)
        return status_fail(st, STATUS_BAD_INPUT, "%s: \"%.60s\" is not a number from %ld to %ld",
                           numbers[what].name, text, numbers[what].min, numbers[what].max);
    *at[what] = (int32_t)v;
    return true;
}

static bool set_rate(struct load_options *o, const char *text, struct status *st)
{
    char *end;
    o->rate = strtod(text, &end);
    if (end != text && !*end && o->rate > 0 && (o->rate <= 1e6 || isinf(o->rate)))
        return true;
    return status_fail(st, STATUS_BAD_INPUT,
                       "rate: \"%.60s\" is neither inf nor above 0 and up to 1000000", text);
}

static bool set_seed(struct load_options *o, const char *text, struct status *st)
{
    char *end;
    errno = 0;
    o->seed = strtoull(text, &end, 10);
    if (*text >= '0' && *text <= '9' && !*end && errno == 0)
        return true;
    return status_fail(st, STATUS_BAD_INPUT, "seed: \"%.60s\" is not a number from 0 to %llu", text,
                       (unsigned long long)UINT64_MAX);
}

static bool set_lengths(struct load_options *o, const char *text, struct status *st)
{
    o->sharegpt = strcmp(text, "sharegpt") == 0;
    return o->sharegpt || strcmp(text, "fixed") == 0 ||
           status_fail(st, STATUS_BAD_INPUT, "lengths: \"%.60s\" is neither fixed nor sharegpt",
                       text);
}

static bool set_url(struct bench *b, const char *url, struct status *st)
{
    static const char scheme[] = "http://";
    char host[64];
    const char *at = url + sizeof scheme - 1;
    const char *colon = strncmp(url, scheme, sizeof scheme - 1) == 0 ? strchr(at, ':') : NULL;
    char *end = NULL;
    const long port = colon ? strtol(colon + 1, &end, 10) : 0;
    const bool ends = colon && end != colon + 1 && (*end == '\0' || strcmp(end, "/") == 0);
    if (ends && port > 0 && port < 65536 && colon - at < (long)sizeof host) {
        snprintf(host, sizeof host, "%.*s", (int)(colon - at), at);
        if (strcmp(host, "localhost") == 0)
            snprintf(host, sizeof host, "127.0.0.1");
        struct sockaddr_in *addr = &b->load.addr;
        *addr = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
        snprintf(b->load.host, sizeof b->load.host, "%.50s:%ld", host, port);
        b->has_url = true;
        if (inet_pton(AF_INET, host, &addr->sin_addr) == 1)
            return true;
    }
    return status_fail(st, STATUS_BAD_INPUT,
                       "url: \"%.100s\" is not http://ADDRESS:PORT with an IPv4 address", url);
}

/* Lengths that are drawn leave no room for lengths that are given; a stalled client's prompt is not
 * drawn. */
static bool check_lengths(const struct bench *b, struct status *st)
{
    const enum number idle = b->is_set[MAX_TOKENS]                            ? MAX_TOKENS
                             : b->is_set[PROMPT_TOKENS] && !b->load.n_stalled ? PROMPT_TOKENS
                                                                              : N_NUMBERS;
    return !b->load.sharegpt || idle == N_NUMBERS ||
           status_fail(st, STATUS_BAD_INPUT,
                       "%s: has no effect with lengths sharegpt, which draws it",
                       numbers[idle].name);
}

static bool read_options(struct bench *b, int argc, char **argv, struct status *st)
{
    static const struct option names[] = {
        {"concurrency", required_argument, NULL, CONCURRENCY},
        {"requests", required_argument, NULL, REQUESTS},
        {"max-tokens", required_argument, NULL, MAX_TOKENS},
        {"prompt-tokens", required_argument, NULL, PROMPT_TOKENS},
        {"stalled", required_argument, NULL, STALLED},
        {"time-s", required_argument, NULL, TIME_S},
        {"url", required_argument, NULL, 'u'},
        {"rate", required_argument, NULL, 'r'},
        {"lengths", required_argument, NULL, 'l'},
        {"seed", required_argument, NULL, 's'},
        {"model", required_argument, NULL, 'm'},
        {"json", no_argument, NULL, 'j'},
        {0},
    };
    bool ok = true;
    optind = 1;
    for (int c; ok && (c = getopt_long(argc, argv, "", names, NULL)) != -1;) {
        if (c < N_NUMBERS)
            ok = b->is_set[c] = set_number(&b->load, (enum number)c, optarg, st);
        else if (c == 'u')
            ok = set_url(b, optarg, st);
        else if (c == 'r')
            ok = set_rate(&b->load, optarg, st);
        else if (c == 'l')
            ok = set_lengths(&b->load, optarg, st);
        else if (c == 's')
            ok = set_seed(&b->load, optarg, st);
        else if (c == 'm')
            snprintf(b->model, sizeof b->model, "%s", optarg);
        else if (c == 'j')
            b->json = true;
        else
            ok = status_fail(st, STATUS_BAD_INPUT, "see `inferd bench`");
    }
    if (ok && optind < argc)
        return status_fail(st, STATUS_BAD_INPUT, "want --name value, found \"%.60s\"",
                           argv[optind]);
    return ok && check_lengths(b, st) &&
           (b->has_url ||
            status_fail(st, STATUS_BAD_INPUT, "which server?  --url http://127.0.0.1:PORT"));
}

/* In an open loop nothing should wait for a client. */
static void choose_concurrency(struct bench *b)
{
    struct load_options *o = &b->load;
    if (o->rate > 0 && !b->is_set[CONCURRENCY])
        o->concurrency = o->n_requests < OPEN_CLIENTS_MAX ? o->n_requests : OPEN_CLIENTS_MAX;
}

static bool raise_descriptors(const struct load_options *o, struct status *st)
{
    struct rlimit r;
    const rlim_t want = (rlim_t)o->concurrency + (rlim_t)o->n_stalled + SPARE_FDS;
    if (getrlimit(RLIMIT_NOFILE, &r) != 0 || r.rlim_cur >= want)
        return true;
    r.rlim_cur = want < r.rlim_max ? want : r.rlim_max;
    return (setrlimit(RLIMIT_NOFILE, &r) == 0 && r.rlim_cur >= want) ||
           status_fail(st, STATUS_IO, "the limit of open files is %llu; %llu are wanted",
                       (unsigned long long)r.rlim_max, (unsigned long long)want);
}

/* ---- report ---- */

static void put_statuses(const struct load_result *res, bool json, struct buf *out)
{
    const char *comma = "";
    for (int i = 0; i < 600; i++) {
        if (!res->n_status[i])
            continue;
        buf_printf(out, json ? "%s\"%d\":%d" : "%s %d: %d", comma, i, res->n_status[i]);
        comma = ",";
    }
}

static void put_times(const char *name, const struct hist *h, bool json, struct buf *out)
{
    const double p50 = (double)hist_quantile(h, 0.50) / 1e6;
    const double p90 = (double)hist_quantile(h, 0.90) / 1e6;
    const double p99 = (double)hist_quantile(h, 0.99) / 1e6;
    const double max = (double)h->max / 1e6;
    if (json)
        buf_printf(out, ",\"%s_ms\":{\"p50\":%.3f,\"p90\":%.3f,\"p99\":%.3f,\"max\":%.3f}", name,
                   p50, p90, p99, max);
    else
        buf_printf(out, "%-12s %10.3f %10.3f %10.3f %10.3f\n", name, p50, p90, p99, max);
}

static void put_tokens(const struct load_result *res, double wall_s, bool json, struct buf *out)
{
    const double per_s = wall_s > 0 ? 1 / wall_s : 0;
    buf_printf(
        out,
        json ? ",\"prompt_tokens\":%llu,\"output_tokens\":%llu,\"output_tokens_wanted\":%llu,"
               "\"short\":%d,\"uncounted\":%d,\"requests_per_s\":%.3f,"
               "\"output_tokens_per_s\":%.1f,\"tokens_per_s\":%.1f"
             : "tokens       %llu in, %llu out of %llu asked for; %d answers of another length, "
               "%d without usage\nthroughput   %.3f requests/s, %.1f output tokens/s, %.1f "
               "tokens/s in and out\n",
        (unsigned long long)res->n_prompt_tokens, (unsigned long long)res->n_tokens,
        (unsigned long long)res->n_tokens_wanted, res->n_short, res->n_uncounted, res->n_ok * per_s,
        (double)res->n_tokens * per_s, (double)(res->n_prompt_tokens + res->n_tokens) * per_s);
}

/* Tokens that are no text yet, half a letter, have no event of their own.  Of a run in which all
 * went well. */
static double tokens_an_event(const struct load_result *res)
{
    return res->n_events > 0 ? (double)res->n_tokens / (double)res->n_events : 0;
}

/* What a full server gives: its filling and its emptying are not in it.  Where clients wait for
 * answers before they ask, or for less than a quarter of the run, none is known to be full. */
static void put_saturated(const struct load_options *o, const struct load_result *res, bool json,
                          struct buf *out)
{
    const double s = (double)res->saturated_ns / 1e9;
    const double per_s = s > 0 ? (double)res->n_saturated_events / s : 0;
    if (o->rate > 0 && res->saturated_ns > res->wall_ns / 4)
        buf_printf(out,
                   json ? ",\"saturated_s\":%.3f,\"saturated_events_per_s\":%.1f,"
                          "\"saturated_tokens_per_s\":%.1f"
                        : "saturated    %.3f s between the first answer's end and the last one's "
                          "first event: %.1f events/s, %.1f output tokens/s at the run's %.3f "
                          "tokens an event\n",
                   s, per_s, per_s * tokens_an_event(res), tokens_an_event(res));
}

static void put_report(const struct load_options *o, const struct load_result *res, bool json,
                       struct buf *out)
{
    const double wall_s = (double)res->wall_ns / 1e9, cpu_s = (double)res->cpu_ns / 1e9;
    const double per_s = wall_s > 0 ? (double)res->n_events / wall_s : 0;
    buf_printf(out,
               json ? "{\"ok\":%d,\"failed\":%d,\"broken\":%d,\"late\":%d,\"status\":{"
                    : "requests     %d ok, %d failed (%d of them broken), %d late; status",
               res->n_ok, res->n_failed, res->n_broken, res->n_late);
    put_statuses(res, json, out);
    buf_printf(out,
               json ? "},\"events\":%llu,\"bytes\":%llu,\"wall_s\":%.3f,\"events_per_s\":%.1f,"
                      "\"client_cpu_s\":%.3f"
                    : "\nevents       %llu, %llu bytes in %.3f s: %.1f events/s; this client used "
                      "%.3f s of CPU\n",
               (unsigned long long)res->n_events, (unsigned long long)res->n_bytes, wall_s, per_s,
               cpu_s);
    put_tokens(res, wall_s, json, out);
    put_saturated(o, res, json, out);
    if (!json)
        buf_printf(out, "%-12s %10s %10s %10s %10s\n", "ms", "p50", "p90", "p99", "max");
    put_times("first_event", &res->first, json, out);
    put_times("between", &res->gap, json, out);
    put_times("token", &res->token, json, out);
    put_times("whole", &res->whole, json, out);
    if (json)
        buf_put_str(out, "}\n");
}

static bool run(struct bench *b, struct load_result *res, struct status *st)
{
    struct buf out;
    b->load.model = b->model;
    choose_concurrency(b);
    if (!raise_descriptors(&b->load, st) ||
        (!b->model[0] && !load_model_name(&b->load, b->model, sizeof b->model, st)) ||
        !load_run(&b->load, res, st))
        return false;
    buf_init(&out, REPORT_BYTES_MAX);
    put_report(&b->load, res, b->json, &out);
    fputs(out.at ? out.at : "", stdout);
    buf_close(&out);
    return res->n_failed == 0 && res->n_late == 0 && res->n_short == 0;
}

int bench_http_main(int argc, char **argv)
{
    struct bench b = {.load = {.concurrency = 16,
                               .n_requests = 100,
                               .max_tokens = 128,
                               .prompt_tokens = 16,
                               .time_s = 300,
                               .seed = 1}};
    struct status st = {0};
    struct load_result *res = calloc(1, sizeof *res);
    int code = res ? 0 : 1;
    if (res && !read_options(&b, argc + 1, argv - 1, &st))
        code = 2;
    else if (res && !run(&b, res, &st))
        code = 1;
    if (st.code != STATUS_OK)
        fprintf(stderr, "inferd: bench http: %s\n", st.msg);
    free(res);
    return code;
}
