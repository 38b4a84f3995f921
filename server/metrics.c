#include "server/metrics.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/log.h"
#include "server/server.h"

/* ---- buckets; vLLM's are those of its dashboards, ours begin lower ---- */

static const double first_token_s[] = {.001, .005, .01, .02, .04, .06, .08, .1, .25, .5,  .75,
                                       1,    2.5,  5,   7.5, 10,  20,  40,  80, 160, 640, 2560};
static const double token_s[] = {.01, .025, .05, .075, .1,  .15, .2, .3, .4, .5,
                                 .75, 1,    2.5, 5,    7.5, 10,  20, 40, 80};
static const double request_s[] = {.3, .5, .8, 1,  1.5, 2,   2.5, 5,   10,   15,  20,
                                   30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680};
static const double fine_s[] = {.0001, .0002, .0005, .001, .002, .005, .01, .02, .05, .1,  .2,
                                .5,    1,     2,     5,    10,   20,   50,  100, 200, 500, 1000};
static const double counts[] = {1,     2,      5,      10,     20,     50,    100,
                                200,   500,    1000,   2000,   5000,   10000, 20000,
                                50000, 100000, 200000, 500000, 1000000};
static const double step_bounds[] = {1,   8,    16,   32,   64,   128,  256,
                                     512, 1024, 2048, 4096, 8192, 16384};

#define N_OF(a) (sizeof(a) / sizeof *(a))
enum { BOUNDS_MAX = 24 };

struct histogram {
    uint64_t bucket[BOUNDS_MAX]; /* not cumulative; the last one used is +Inf */
    uint64_t n;
    double sum;
};

enum series {
    FIRST_TOKEN,
    INTER_TOKEN,
    PER_OUTPUT_TOKEN,
    END_TO_END,
    QUEUE,
    INFERENCE,
    PREFILL,
    DECODE,
    PROMPT_TOKENS,
    OUTPUT_TOKENS,
    OUTPUT_TOKENS_MAX,
    PARAM_MAX_TOKENS,
    COMPUTED_TOKENS,
    SERIES_N
};

struct series_names {
    const char *vllm, *own, *help;
    const double *bound; /* vLLM's */
    size_t n_bounds;
    bool is_time; /* ours has fine_s; else the same bounds */
};

static const struct series_names names[SERIES_N] = {
    [FIRST_TOKEN] = {"vllm:time_to_first_token_seconds", "inferd_time_to_first_token_seconds",
                     "Time from arrival to the first token.", first_token_s, N_OF(first_token_s),
                     true},
    [INTER_TOKEN] = {"vllm:inter_token_latency_seconds", "inferd_inter_token_latency_seconds",
                     "Time between two tokens of one request.", token_s, N_OF(token_s), true},
    [PER_OUTPUT_TOKEN] = {"vllm:request_time_per_output_token_seconds",
                          "inferd_request_time_per_output_token_seconds",
                          "Mean time per token after the first, of one request.", token_s,
                          N_OF(token_s), true},
    [END_TO_END] = {"vllm:e2e_request_latency_seconds", "inferd_request_seconds",
                    "Time from arrival to the end.", request_s, N_OF(request_s), true},
    [QUEUE] = {"vllm:request_queue_time_seconds", "inferd_request_queue_seconds",
               "Time in the queue.", request_s, N_OF(request_s), true},
    [INFERENCE] = {"vllm:request_inference_time_seconds", "inferd_request_inference_seconds",
                   "Time from the first step to the end.", request_s, N_OF(request_s), true},
    [PREFILL] = {"vllm:request_prefill_time_seconds", "inferd_request_prefill_seconds",
                 "Time from the first step to the first token.", request_s, N_OF(request_s), true},
    [DECODE] = {"vllm:request_decode_time_seconds", "inferd_request_decode_seconds",
                "Time from the first token to the end.", request_s, N_OF(request_s), true},
    [PROMPT_TOKENS] = {"vllm:request_prompt_tokens", "inferd_request_prompt_tokens",
                       "Prompt tokens of one request.", counts, N_OF(counts), false},
    [OUTPUT_TOKENS] = {"vllm:request_generation_tokens", "inferd_request_output_tokens",
                       "Generated tokens of one request.", counts, N_OF(counts), false},
    [OUTPUT_TOKENS_MAX] = {"vllm:request_max_num_generation_tokens",
                           "inferd_request_output_tokens_max",
                           "Most tokens any answer of one request had.", counts, N_OF(counts),
                           false},
    [PARAM_MAX_TOKENS] = {"vllm:request_params_max_tokens", "inferd_request_max_tokens",
                          "Tokens one request might have generated.", counts, N_OF(counts), false},
    [COMPUTED_TOKENS] = {"vllm:request_prefill_kv_computed_tokens",
                         "inferd_request_prompt_computed_tokens",
                         "Prompt tokens that were not in the prefix cache.", counts, N_OF(counts),
                         false},
};

enum { HTTP_ROWS_MAX = 64, CODES_MAX = 64, ROUTES_MAX = 24 };

struct metrics {
    char model[600]; /* escaped */
    struct histogram vllm[SERIES_N], own[SERIES_N];
    uint64_t n_finished[5]; /* by enum finish */
    struct http_row {
        char path[64], method[8];
        int status;
        uint64_t n;
    } http[HTTP_ROWS_MAX]; /* the last one takes what finds no row */
    int n_http;
    struct route_row {
        char path[64];
        struct histogram h;
    } route[ROUTES_MAX];
    int n_routes;
    struct code_row {
        char code[48];
        uint64_t n;
    } code[CODES_MAX];
    int n_codes;
};

/* ---- counting ---- */

static void observe(struct histogram *h, const double *bound, size_t n_bounds, double v,
                    uint64_t times)
{
    size_t i = 0;
    while (i < n_bounds && v > bound[i])
        i++;
    h->bucket[i] += times;
    h->n += times;
    h->sum += v * (double)times;
}

static void add(struct metrics *m, enum series s, double v, uint64_t times)
{
    const struct series_names *f = &names[s];
    observe(&m->vllm[s], f->bound, f->n_bounds, v, times);
    if (f->is_time)
        observe(&m->own[s], fine_s, N_OF(fine_s), v, times);
    else
        observe(&m->own[s], f->bound, f->n_bounds, v, times);
}

struct metrics *metrics_open(const char *model_name)
{
    struct metrics *m = calloc(1, sizeof *m);
    if (!m)
        return NULL;
    size_t n = 0;
    for (const char *s = model_name; *s && n + 3 < sizeof m->model; s++) {
        if (*s == '"' || *s == '\\' || *s == '\n')
            m->model[n++] = '\\';
        m->model[n++] = *s == '\n' ? 'n' : *s;
    }
    return m;
}

void metrics_close(struct metrics *m)
{
    free(m);
}

static double seconds(uint64_t first_ns, uint64_t end_ns)
{
    return end_ns > first_ns ? (double)(end_ns - first_ns) / 1e9 : 0;
}

void metrics_request(struct metrics *m, const struct request *r, uint64_t now_ns)
{
    int finish = atomic_load_explicit(&r->finish, memory_order_acquire);
    int32_t n_out = atomic_load_explicit(&r->n_out, memory_order_acquire);
    uint64_t end = r->finished_ns ? r->finished_ns : now_ns;
    if (finish >= 0 && finish < (int)N_OF(m->n_finished))
        m->n_finished[finish]++;
    add(m, PROMPT_TOKENS, r->n_prompt, 1);
    add(m, PARAM_MAX_TOKENS, r->n_max, 1);
    add(m, END_TO_END, seconds(r->arrived_ns, end), 1);
    if (!r->scheduled_ns)
        return; /* it never ran: no times to tell */
    add(m, QUEUE, seconds(r->arrived_ns, r->scheduled_ns), 1);
    add(m, INFERENCE, seconds(r->scheduled_ns, end), 1);
    add(m, OUTPUT_TOKENS, n_out, 1);
    add(m, OUTPUT_TOKENS_MAX, n_out, 1);
    add(m, COMPUTED_TOKENS, r->n_prompt - r->n_cached, 1);
    if (!r->first_token_ns)
        return;
    add(m, FIRST_TOKEN, seconds(r->arrived_ns, r->first_token_ns), 1);
    add(m, PREFILL, seconds(r->scheduled_ns, r->first_token_ns), 1);
    add(m, DECODE, seconds(r->first_token_ns, end), 1);
    if (n_out > 1)
        add(m, PER_OUTPUT_TOKEN, seconds(r->first_token_ns, end) / (n_out - 1), 1);
}

void metrics_inter_token(struct metrics *m, uint64_t gap_ns, int32_t n_tokens)
{
    if (n_tokens > 0)
        add(m, INTER_TOKEN, (double)gap_ns / 1e9 / n_tokens, (uint64_t)n_tokens);
}

static struct histogram *route_of(struct metrics *m, const char *path)
{
    int i = 0;
    while (i < m->n_routes && strcmp(m->route[i].path, path) != 0)
        i++;
    if (i == ROUTES_MAX)
        return &m->route[ROUTES_MAX - 1].h;
    if (i == m->n_routes) {
        m->n_routes++;
        snprintf(m->route[i].path, sizeof m->route[i].path, "%s",
                 i == ROUTES_MAX - 1 ? "other" : path);
    }
    return &m->route[i].h;
}

static void count_http(struct metrics *m, const char *path, const char *method, int status)
{
    for (int i = 0; i < m->n_http; i++) {
        struct http_row *r = &m->http[i];
        if (r->status == status && strcmp(r->path, path) == 0 && strcmp(r->method, method) == 0) {
            r->n++;
            return;
        }
    }
    struct http_row *r = &m->http[m->n_http];
    if (m->n_http < HTTP_ROWS_MAX - 1) {
        m->n_http++;
        snprintf(r->path, sizeof r->path, "%s", path);
        snprintf(r->method, sizeof r->method, "%s", method);
        r->status = status;
    } else { /* full: one row for all that is rare */
        snprintf(r->path, sizeof r->path, "other");
        snprintf(r->method, sizeof r->method, "other");
        r->status = 0;
    }
    r->n++;
}

void metrics_http(struct metrics *m, const char *path, const char *method, int status, uint64_t ns)
{
    static const char *const known[] = {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"};
    const char *word = "other";
    for (size_t i = 0; i < N_OF(known); i++)
        if (strcmp(method, known[i]) == 0)
            word = known[i];
    count_http(m, path, word, status);
    observe(route_of(m, path), fine_s, N_OF(fine_s), (double)ns / 1e9, 1);
}

void metrics_rejected(struct metrics *m, const char *code)
{
    int i = 0;
    while (i < m->n_codes && strcmp(m->code[i].code, code) != 0)
        i++;
    if (i >= CODES_MAX - 1)
        i = CODES_MAX - 1;
    if (i >= m->n_codes) {
        m->n_codes = i + 1;
        snprintf(m->code[i].code, sizeof m->code[i].code, "%s",
                 i == CODES_MAX - 1 ? "other" : code);
    }
    m->code[i].n++;
}

/* ---- writing ---- */

static void put_head(struct buf *out, const char *name, const char *type, const char *help)
{
    buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void put_one(struct buf *out, const char *name, const char *type, const char *help,
                    const char *labels, double v)
{
    put_head(out, name, type, help);
    buf_printf(out, "%s%s %.17g\n", name, labels, v);
}

/* labels: `a="b"`, without braces; limit: bounds above it are left out. */
static void put_histogram(struct buf *out, const char *name, const char *labels,
                          const struct histogram *h, const double *bound, size_t n_bounds,
                          double limit)
{
    uint64_t below = 0;
    for (size_t i = 0; i < n_bounds; i++) {
        below += h->bucket[i];
        if (bound[i] <= limit)
            buf_printf(out, "%s_bucket{%s%sle=\"%g\"} %llu\n", name, labels, *labels ? "," : "",
                       bound[i], (unsigned long long)below);
    }
    buf_printf(out, "%s_bucket{%s%sle=\"+Inf\"} %llu\n", name, labels, *labels ? "," : "",
               (unsigned long long)h->n);
    const char *open = *labels ? "{" : "", *close = *labels ? "}" : "";
    buf_printf(out, "%s_sum%s%s%s %.17g\n", name, open, labels, close, h->sum);
    buf_printf(out, "%s_count%s%s%s %llu\n", name, open, labels, close, (unsigned long long)h->n);
}

static void put_series(const struct metrics *m, struct buf *out, const char *labels, double context)
{
    for (int s = 0; s < SERIES_N; s++) {
        const struct series_names *f = &names[s];
        double limit = f->is_time || context <= 0 ? 1e12 : context;
        put_head(out, f->vllm, "histogram", f->help);
        put_histogram(out, f->vllm, labels, &m->vllm[s], f->bound, f->n_bounds, limit);
        put_head(out, f->own, "histogram", f->help);
        put_histogram(out, f->own, "", &m->own[s], f->is_time ? fine_s : f->bound,
                      f->is_time ? N_OF(fine_s) : f->n_bounds, limit);
    }
}

/* One value under our name and vLLM's (either may be NULL). */
struct pair {
    const char *own, *vllm, *type, *help;
    double v;
};

static void put_pairs(struct buf *out, const char *labels, const struct pair *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (p[i].own)
            put_one(out, p[i].own, p[i].type, p[i].help, "", p[i].v);
        if (p[i].vllm)
            put_one(out, p[i].vllm, p[i].type, p[i].help, labels, p[i].v);
    }
}

static void put_view(const struct scheduler_view *v, struct buf *out, const char *labels)
{
    int32_t used = v->n_blocks - v->n_blocks_free;
    double usage = v->n_blocks > 0 ? (double)used / v->n_blocks : 0;
    const struct pair p[] = {
        {"inferd_requests_running", "vllm:num_requests_running", "gauge", "Requests running.",
         v->n_running},
        {"inferd_requests_waiting", "vllm:num_requests_waiting", "gauge", "Requests in the queue.",
         v->n_waiting},
        {"inferd_kv_cache_usage_ratio", "vllm:kv_cache_usage_perc", "gauge",
         "Share of the KV cache that requests hold, 0 to 1.", usage},
        {NULL, "vllm:gpu_cache_usage_perc", "gauge", "The same, under its old name.", usage},
        {"inferd_kv_blocks", NULL, "gauge", "Blocks of the KV cache.", v->n_blocks},
        {"inferd_kv_blocks_free", NULL, "gauge", "Blocks that no request holds.", v->n_blocks_free},
        {"inferd_kv_blocks_cached", NULL, "gauge", "Free blocks whose content may be used again.",
         v->n_blocks_cached},
        {"inferd_prefix_cache_queries_total", "vllm:prefix_cache_queries_total", "counter",
         "Prompt tokens looked up in the prefix cache.", (double)v->prefix_queries_tokens},
        {"inferd_prefix_cache_hits_total", "vllm:prefix_cache_hits_total", "counter",
         "Prompt tokens found in the prefix cache.", (double)v->prefix_hits_tokens},
        {"inferd_preemptions_total", "vllm:num_preemptions_total", "counter",
         "Times a running request lost its blocks.", (double)v->n_preemptions},
        {"inferd_replays_total", NULL, "counter", "Requests carried over a death of the engine.",
         (double)v->n_replays},
        {"inferd_prompt_tokens_total", "vllm:prompt_tokens_total", "counter",
         "Prompt tokens taken in.", (double)v->n_prompt_tokens},
        {"inferd_cached_tokens_total", "vllm:prompt_tokens_cached_total", "counter",
         "Prompt tokens that were not computed again.", (double)v->n_cached_tokens},
        {"inferd_output_tokens_total", "vllm:generation_tokens_total", "counter",
         "Tokens generated.", (double)v->n_output_tokens},
        {"inferd_steps_total", NULL, "counter", "Steps the engine ran.", (double)v->n_steps},
        {"inferd_invariant_faults_total", NULL, "counter", "Broken invariants found; want 0.",
         (double)v->n_invariant_faults},
        {"inferd_last_step_age_seconds", NULL, "gauge", "Age of the last step while work waits.",
         (double)v->last_step_age_ms / 1e3},
        {"inferd_engine_up", NULL, "gauge", "1 when the engine is ready.",
         v->engine_state == ENGINE_READY && !v->engine_stalled},
        {"inferd_engine_restarts_total", NULL, "counter", "Deaths of the engine.",
         v->engine_deaths},
        {"inferd_engine_load_seconds", NULL, "gauge", "Time the last load of the model took.",
         (double)v->facts.load_ms / 1e3},
    };
    put_pairs(out, labels, p, N_OF(p));
}

static void put_steps(const struct scheduler_view *v, struct buf *out, const char *labels)
{
    struct histogram h = {.n = v->n_steps, .sum = (double)v->n_step_tokens};
    for (size_t i = 0; i < N_OF(v->step_tokens_bucket); i++)
        h.bucket[i] = v->step_tokens_bucket[i];
    put_head(out, "vllm:iteration_tokens_total", "histogram", "Tokens of one step.");
    put_histogram(out, "vllm:iteration_tokens_total", labels, &h, step_bounds, N_OF(step_bounds),
                  1e12);
    put_head(out, "inferd_step_tokens", "histogram", "Tokens of one step.");
    put_histogram(out, "inferd_step_tokens", "", &h, step_bounds, N_OF(step_bounds), 1e12);
}

static void put_facts(const struct metrics *m, const struct scheduler_view *v, struct buf *out)
{
    const struct engine_facts *f = &v->facts;
    put_head(out, "vllm:cache_config_info", "gauge", "Geometry of the KV cache.");
    buf_printf(out,
               "vllm:cache_config_info{model_name=\"%s\",engine=\"0\",block_size=\"%d\","
               "num_gpu_blocks=\"%d\",cache_dtype=\"%s\"} 1\n",
               m->model, f->limits.block_tokens, f->limits.n_blocks, f->kv_dtype);
    put_head(out, "inferd_build_info", "gauge", "What this process is.");
    buf_printf(out, "inferd_build_info{version=\"%s\",model=\"%s\",arch=\"%s\",isa=\"%s\"} 1\n",
               INFERD_VERSION, m->model, f->arch, f->isa);
    put_head(out, "inferd_engine_memory_bytes", "gauge", "Memory the plan took, by use.");
    buf_printf(out, "inferd_engine_memory_bytes{use=\"weights\"} %llu\n",
               (unsigned long long)f->weight_bytes);
    buf_printf(out, "inferd_engine_memory_bytes{use=\"kv\"} %llu\n",
               (unsigned long long)f->kv_bytes);
    buf_printf(out, "inferd_engine_memory_bytes{use=\"all\"} %llu\n",
               (unsigned long long)f->total_bytes);
    put_head(out, "inferd_engine_ranks", "gauge", "Ranks that divide the model; 1 = it is whole.");
    buf_printf(out, "inferd_engine_ranks %d\n", f->n_ranks);
    put_head(out, "inferd_engine_stages", "gauge", "Stages that divide its layers.");
    buf_printf(out, "inferd_engine_stages %d\n", f->limits.n_stages > 1 ? f->limits.n_stages : 1);
}

static void put_finished(const struct metrics *m, struct buf *out)
{
    static const char *const reason[] = {[FINISH_STOP] = "stop",
                                         [FINISH_LENGTH] = "length",
                                         [FINISH_CANCELLED] = "abort",
                                         [FINISH_ERROR] = "error"};
    put_head(out, "inferd_requests_finished_total", "counter", "Finished requests, by reason.");
    for (int i = FINISH_STOP; i <= FINISH_ERROR; i++)
        buf_printf(out, "inferd_requests_finished_total{reason=\"%s\"} %llu\n", reason[i],
                   (unsigned long long)m->n_finished[i]);
    put_head(out, "vllm:request_success_total", "counter", "Finished requests, by reason.");
    for (int i = FINISH_STOP; i <= FINISH_ERROR; i++)
        buf_printf(out,
                   "vllm:request_success_total{model_name=\"%s\",engine=\"0\","
                   "finished_reason=\"%s\"} %llu\n",
                   m->model, reason[i], (unsigned long long)m->n_finished[i]);
}

static void put_http(const struct metrics *m, struct buf *out)
{
    put_head(out, "inferd_http_requests_total", "counter",
             "HTTP requests; status 499: client left.");
    for (int i = 0; i < HTTP_ROWS_MAX; i++)
        if (m->http[i].n)
            buf_printf(
                out, "inferd_http_requests_total{route=\"%s\",method=\"%s\",status=\"%d\"} %llu\n",
                m->http[i].path, m->http[i].method, m->http[i].status,
                (unsigned long long)m->http[i].n);
    put_head(out, "inferd_http_request_seconds", "histogram", "Time of HTTP requests, by route.");
    for (int i = 0; i < m->n_routes; i++) {
        char label[80];
        snprintf(label, sizeof label, "route=\"%s\"", m->route[i].path);
        put_histogram(out, "inferd_http_request_seconds", label, &m->route[i].h, fine_s,
                      N_OF(fine_s), 1e12);
    }
    put_head(out, "inferd_rejected_total", "counter",
             "Requests refused, by the code of the error.");
    for (int i = 0; i < m->n_codes; i++)
        if (m->code[i].n)
            buf_printf(out, "inferd_rejected_total{code=\"%s\"} %llu\n", m->code[i].code,
                       (unsigned long long)m->code[i].n);
}

static double resident_bytes(const char *pid)
{
    char path[48];
    unsigned long long all = 0, resident = 0;
    snprintf(path, sizeof path, "/proc/%s/statm", pid);
    FILE *f = fopen(path, "re");
    if (!f)
        return 0;
    if (fscanf(f, "%llu %llu", &all, &resident) != 2)
        resident = 0;
    fclose(f);
    return (double)resident * (double)sysconf(_SC_PAGESIZE);
}

static double open_fds(void)
{
    DIR *d = opendir("/proc/self/fd");
    double n = -3; /* ".", ".." and the directory itself */
    while (d && readdir(d))
        n++;
    if (d)
        closedir(d);
    return d ? n : 0;
}

/* How many descriptors may be open; 0 = no limit. */
static double max_fds(void)
{
    struct rlimit r;
    bool is_limited = getrlimit(RLIMIT_NOFILE, &r) == 0 && r.rlim_cur != RLIM_INFINITY;
    return is_limited ? (double)r.rlim_cur : 0;
}

static void put_process(const struct server *sv, const struct scheduler_view *v, struct buf *out)
{
    char pid[24];
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    snprintf(pid, sizeof pid, "%lld", (long long)v->engine_pid);
    double cpu = (double)u.ru_utime.tv_sec + (double)u.ru_stime.tv_sec +
                 (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
    const struct pair p[] = {
        {"process_resident_memory_bytes", NULL, "gauge", "Resident memory of the front.",
         resident_bytes("self")},
        {"inferd_engine_resident_memory_bytes", NULL, "gauge", "Resident memory of the engine.",
         v->engine_pid ? resident_bytes(pid) : 0},
        {"process_open_fds", NULL, "gauge", "Open descriptors of the front.", open_fds()},
        {"process_max_fds", NULL, "gauge", "Descriptors that the front may open; 0 = no limit.",
         max_fds()},
        {"process_cpu_seconds_total", NULL, "counter", "CPU time of the front.", cpu},
        {"process_start_time_seconds", NULL, "gauge", "Start, in seconds since 1970.",
         (double)sv->started_unix_s},
        {"inferd_draining", NULL, "gauge", "1 when new work is refused.", sv->draining},
        {"inferd_log_lines_dropped_total", NULL, "counter", "Log lines that could not be written.",
         (double)log_dropped()},
    };
    put_pairs(out, "", p, N_OF(p));
}

void metrics_write(const struct metrics *m, const struct server *sv, struct buf *out)
{
    struct scheduler_view v;
    char labels[700], inner[680];
    scheduler_view(sv->sched, &v);
    snprintf(inner, sizeof inner, "model_name=\"%s\",engine=\"0\"", m->model);
    snprintf(labels, sizeof labels, "{%s}", inner);
    put_facts(m, &v, out);
    put_view(&v, out, labels);
    put_steps(&v, out, inner);
    put_series(m, out, inner, v.facts.limits.context_max);
    put_finished(m, out);
    put_http(m, out);
    put_process(sv, &v, out);
}
