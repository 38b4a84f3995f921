#include "server/serve.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>
#include <uv.h>

#include "base/log.h"
#include "engine/chat.h"
#include "engine/model_text.h"
#include "engine/tokenizer.h"
#include "server/api.h"
#include "server/auth.h"
#include "server/bar.h"
#include "server/config.h"
#include "server/follow.h"
#include "server/http_daemon.h"
#include "server/manager.h"
#include "server/metrics.h"

enum {
    TICK_MS = 50,    /* how often a drain looks whether it is done */
    WATCH_MS = 250,  /* how often the engine's state is looked at, for the log */
    GRACE_MS = 250,  /* what a drain leaves connections whose request is still on its way */
    FLUSH_MS = 1000, /* after a cut, for last events to leave */
    /* Descriptors that are not connections: 64 connections that wait for their 503, 256 sockets
     * that linger, and what the engine's next life must find free however full the house is. */
    SPARE_FDS = 512,
    CONNECTIONS_MIN = 64,
};

struct front { /* everything serve opens, in order */
    struct config cfg;
    struct server sv;
    struct auth *auth;
    struct model_text text;
    struct chat_template *chat;
    char model_name[256], bos[64], eos[64];
    struct http *http;
    uv_loop_t loop;
    uv_signal_t on_term, on_int, on_hup;
    uv_poll_t news;
    uv_timer_t drain, watch;
    bool loop_open, handles_open;
    int listen_fd; /* the service manager's socket; 0 = none, host and port are opened */
    uint64_t drain_started_ns;
    uint64_t watchdog_ns, told_alive_ns;
    bool cut; /* the drain's time is over */
    enum engine_state last_state;
    uint32_t last_epoch, last_deaths;
    int last_percent;
    bool told_plan, told_ready;
    bool hopeless; /* the engine never ran, and never will */
};

/* Keys and prompts are in this process: no core files, no ptrace by the same user. */
static void harden(void)
{
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    const struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
#endif
}

/* ---- start ---- */

static bool is_loopback_host(const char *host)
{
    return strncmp(host, "127.", 4) == 0 || strcmp(host, "::1") == 0 ||
           strcmp(host, "localhost") == 0;
}

static bool check_exposure(const struct front *f, struct status *st)
{
    bool is_loopback =
        f->listen_fd ? http_is_loopback(f->listen_fd) : is_loopback_host(f->cfg.host);
    if (auth_has_keys(f->auth) || f->cfg.allow_open || is_loopback)
        return true;
    return status_fail(st, STATUS_BAD_INPUT,
                       "%s%.60s can be reached from elsewhere and there are no API keys; give "
                       "--api-key-file, or --allow-open to serve everyone",
                       f->listen_fd ? "the service manager's socket" : "host ",
                       f->listen_fd ? "" : f->cfg.host);
}

/* Makes room for the connections asked for, or asks for fewer. */
static bool raise_descriptors(struct front *f, struct status *st)
{
    struct rlimit r;
    if (getrlimit(RLIMIT_NOFILE, &r) != 0)
        return true;
    rlim_t want = (rlim_t)f->cfg.max_connections + SPARE_FDS;
    if (r.rlim_cur < want) {
        r.rlim_cur = want < r.rlim_max ? want : r.rlim_max;
        setrlimit(RLIMIT_NOFILE, &r);
    }
    if (r.rlim_cur >= want)
        return true;
    if (r.rlim_cur < SPARE_FDS + CONNECTIONS_MIN)
        return status_fail(st, STATUS_IO, "the limit of open files is %llu; want at least %d",
                           (unsigned long long)r.rlim_cur, SPARE_FDS + CONNECTIONS_MIN);
    f->cfg.max_connections = (int64_t)r.rlim_cur - SPARE_FDS;
    log_event(LOG_WARN, "the limit of open files lowers max-connections",
              LOG_I("max_connections", f->cfg.max_connections));
    return true;
}

/* The name of the file without its ending, or of the folder. */
static void name_model(struct front *f)
{
    const char *at = f->cfg.model;
    size_t n = strlen(at);
    if (f->cfg.served_model_name[0]) {
        snprintf(f->model_name, sizeof f->model_name, "%.200s", f->cfg.served_model_name);
        return;
    }
    while (n > 1 && at[n - 1] == '/')
        n--;
    const char *slash = memrchr(at, '/', n - 1);
    if (slash) {
        n -= (size_t)(slash + 1 - at);
        at = slash + 1;
    }
    if (n > 5 && memcmp(at + n - 5, ".gguf", 5) == 0)
        n -= 5;
    snprintf(f->model_name, sizeof f->model_name, "%.*s", n > 200 ? 200 : (int)n, at);
}

static void copy_token(const struct tokenizer *t, int32_t id, char *out, size_t max)
{
    size_t n = 0;
    const char *bytes = id >= 0 ? tokenizer_bytes(t, id, true, &n) : "";
    if (n >= max)
        n = 0;
    memcpy(out, bytes, n);
    out[n] = '\0';
}

static bool open_model_text(struct front *f, struct status *st)
{
    struct status why = {0};
    if (!model_text_open(&f->text, f->cfg.model, st))
        return false;
    const struct tokenizer *tok = f->text.tok;
    copy_token(tok, tokenizer_bos(tok), f->bos, sizeof f->bos);
    copy_token(tok, tokenizer_eos(tok), f->eos, sizeof f->eos);
    if (!f->text.template)
        return true;
    f->chat = chat_template_open(f->text.template, f->text.n_template, &why);
    if (!f->chat)
        log_event(LOG_WARN, "the model's chat template cannot be used; chat is off",
                  LOG_S("why", why.msg));
    return true;
}

enum { FAKE_SEQS = 64, FAKE_STEP_TOKENS = 512, SEQS_MOST = 256 /* that an engine chooses */ };

static struct engine *open_fake(const struct front *f, struct status *st)
{
    const struct config *c = &f->cfg;
    struct engine_fake_options o = {.end_id = -1, .step_ns = (uint64_t)c->fake_step_us * 1000};
    o.limits.vocab = tokenizer_vocab(f->text.tok);
    o.limits.seqs_max = c->max_seqs ? (int32_t)c->max_seqs : FAKE_SEQS;
    o.limits.step_tokens_max = c->max_step_tokens ? (int32_t)c->max_step_tokens : FAKE_STEP_TOKENS;
    o.limits.context_max = c->max_context ? (int32_t)c->max_context : 8192;
    o.limits.block_tokens = (int32_t)c->block_tokens;
    o.limits.n_blocks = c->kv_blocks ? (int32_t)c->kv_blocks : 1 << 16;
    o.limits.history_max = 1 << 20;
    o.limits.bias_max = STEP_BIAS_MAX * 64;
    return engine_fake_open(&o, &clock_real, st);
}

static bool open_scheduler(struct front *f, struct status *st)
{
    const struct config *c = &f->cfg;
    struct engine_options eo;
    config_engine(c, &eo);
    struct engine *e = c->engine[0] == 'f'   ? open_fake(f, st)
                       : c->engine[0] == 'l' ? engine_local_open(&eo, &clock_real, st)
                                             : engine_proc_open(&eo, &clock_real, st);
    if (!e)
        return status_wrap(st, "engine");
    /* What the scheduler would take at most, whatever the engine chooses. */
    const int64_t seqs = c->max_seqs ? c->max_seqs : SEQS_MOST;
    f->sv.prep_max = (int32_t)((c->queue_max ? c->queue_max : 4 * seqs) + seqs);
    struct scheduler_options so = {
        .queue_max = c->queue_max ? (int32_t)c->queue_max : -1,
        .queue_wait_ms_max = (uint64_t)c->queue_wait_ms,
        .prefill_chunk_max = (int32_t)c->prefill_chunk,
        .mixed_tokens_max = (int32_t)c->mixed_step_tokens,
        .prefix_cache = c->prefix_cache != 0,
    };
    if (!hash_key_random(&so.hash_key)) {
        e->vt->close(e);
        return status_fail(st, STATUS_IO, "no random bytes for hash keys");
    }
    f->sv.sched = scheduler_open(&so, e, f->text.tok, &clock_real, st);
    return f->sv.sched && scheduler_start(f->sv.sched, st);
}

/* ---- while it serves ---- */

static bool admit(const struct server *sv, const struct route *r, struct api_error *e)
{
    if (r->auth == ROUTE_OPEN || !sv->draining)
        return true;
    api_error_set(e, 503, "draining", NULL, "the server is shutting down");
    e->retry_after_s = 5;
    return false;
}

static void on_news(uv_poll_t *p, int status, int events)
{
    struct front *f = p->data;
    (void)status, (void)events;
    api_news(&f->sv);
}

/* Once, as soon as there is one: a load that fails has shown what it wanted, and a restart takes what
 * the start took. */
static void tell_plan(struct front *f, const struct engine_facts *e)
{
    const char *asked = f->cfg.cpu_isa;
    if (f->told_plan || !e->plan[0])
        return;
    f->told_plan = true;
    log_text(LOG_INFO, "memory plan", e->plan);
    if (f->cfg.weights[0] == 'r')
        log_event(LOG_WARN, "weights are random: answers mean nothing", LOG_S("model", f->model_name));
    config_tell_idle(&f->cfg, e);
    if (asked[0] && strcmp(e->device, "cpu") == 0 && strcmp(asked, e->isa) != 0)
        log_event(LOG_WARN, "this CPU has less than cpu-isa allows", LOG_S("cpu_isa", asked),
                  LOG_S("isa", e->isa));
}

static void tell_ready(struct front *f, const struct scheduler_view *v)
{
    const struct engine_facts *e = &v->facts;
    log_event(LOG_INFO, "engine ready", LOG_S("model", f->model_name), LOG_S("arch", e->arch),
              LOG_S("device", e->device), LOG_S("isa", e->isa),
              LOG_S("activations", e->activations), LOG_S("kv_dtype", e->kv_dtype),
              LOG_I("ranks", e->n_ranks),
              LOG_I("stages", e->limits.n_stages > 1 ? e->limits.n_stages : 1),
              LOG_I("load_ms", e->load_ms), LOG_I("weight_bytes", e->weight_bytes),
              LOG_I("kv_bytes", e->kv_bytes), LOG_I("total_bytes", e->total_bytes),
              LOG_I("context", e->limits.context_max), LOG_I("kv_blocks", e->limits.n_blocks),
              LOG_I("seqs", e->limits.seqs_max));
    if (!f->told_ready)
        manager_tell("READY=1");
    f->told_ready = true;
}

/* A sign of life, twice within the time after which the manager would end us. */
static void tell_alive(struct front *f)
{
    uint64_t now = clock_now(&clock_real);
    if (!f->watchdog_ns || now - f->told_alive_ns < f->watchdog_ns / 2)
        return;
    manager_tell("WATCHDOG=1");
    f->told_alive_ns = now;
}

/* A bar on a terminal, a line each quarter elsewhere. */
static void show_loading(struct front *f, const struct engine_progress *p)
{
    char text[BAR_BYTES];
    const int percent = bar_text(text, p->n_done, p->n_total);
    if (!log_draw(text) && percent / 25 != f->last_percent / 25)
        log_event(LOG_INFO, "loading", LOG_I("percent", percent));
    f->last_percent = percent;
}

static void on_watch(uv_timer_t *t)
{
    struct front *f = t->data;
    struct scheduler_view v;
    tell_alive(f);
    scheduler_view(f->sv.sched, &v);
    tell_plan(f, &v.facts);
    bool changed = v.engine_state != f->last_state || v.engine_epoch != f->last_epoch;
    if (changed && v.engine_state == ENGINE_READY)
        tell_ready(f, &v);
    if (v.engine_deaths != f->last_deaths) /* DOWN itself may be over before anyone looks */
        log_event(LOG_ERROR, "engine died", LOG_S("why", v.engine_why),
                  LOG_I("deaths", v.engine_deaths));
    if (v.engine_given_up && v.engine_epoch == 0) {
        log_event(LOG_ERROR, "cannot start", LOG_S("why", v.engine_why));
        f->hopeless = true;
        uv_stop(&f->loop);
    }
    if (v.engine_state == ENGINE_STARTING && v.progress.n_total > 0)
        show_loading(f, &v.progress);
    f->last_state = v.engine_state;
    f->last_epoch = v.engine_epoch;
    f->last_deaths = v.engine_deaths;
}

/* ---- end ---- */

static void on_drain(uv_timer_t *t)
{
    struct front *f = t->data;
    uint64_t ms = (clock_now(&clock_real) - f->drain_started_ns) / NS_PER_MS;
    uint64_t limit_ms = (uint64_t)f->cfg.drain_timeout_ms;
    bool is_done =
        http_n_busy(f->http) == 0 && (http_n_connections(f->http) == 0 || ms >= GRACE_MS);
    if (is_done || ms >= limit_ms + FLUSH_MS) {
        uv_stop(&f->loop);
    } else if (ms >= limit_ms && !f->cut) {
        struct api_error e;
        api_error_set(&e, 503, "server_shutting_down", NULL,
                      "the server shut down before the answer was complete");
        log_event(LOG_WARN, "drain time is over", LOG_I("requests", http_n_busy(f->http)));
        f->cut = true;
        http_cut(f->http, &e);
    }
}

static void on_stop_signal(uv_signal_t *s, int signum)
{
    struct front *f = s->data;
    log_event(LOG_INFO, "signal", LOG_I("number", signum),
              LOG_S("then", f->sv.draining ? "stop" : "drain"));
    if (f->sv.draining) {
        uv_stop(&f->loop);
        return;
    }
    f->sv.draining = true;
    f->drain_started_ns = clock_now(&clock_real);
    manager_tell("STOPPING=1");
    if (f->listen_fd) /* who comes now waits in the socket for the next process */
        http_pause(f->http);
    uv_timer_start(&f->drain, on_drain, 0, TICK_MS);
}

static void on_reload_signal(uv_signal_t *s, int signum)
{
    struct front *f = s->data;
    struct status st = {0};
    (void)signum;
    if (auth_reload(f->auth, &st))
        log_event(LOG_INFO, "keys read again", LOG_S("file", f->cfg.api_key_file));
    else
        log_event(LOG_ERROR, "keys stay as they were", LOG_S("why", st.msg));
}

/* ---- open and close ---- */

static void warn_of_variables(void)
{
    struct buf lines;
    buf_init(&lines, CONFIG_VARIABLES_BYTES_MAX);
    config_unknown_variables(&lines);
    if (lines.n > 0)
        log_text(LOG_WARN, "unknown environment variables", lines.at);
    buf_close(&lines);
}

static bool open_loop(struct front *f, struct status *st)
{
    if (uv_loop_init(&f->loop) != 0)
        return status_fail(st, STATUS_IO, "cannot make the event loop");
    f->loop_open = true;
    f->sv.loop = &f->loop;
    if (uv_poll_init(&f->loop, &f->news, scheduler_news_fd(f->sv.sched)) != 0)
        return status_fail(st, STATUS_IO, "cannot watch the scheduler");
    uv_signal_init(&f->loop, &f->on_term);
    uv_signal_init(&f->loop, &f->on_int);
    uv_signal_init(&f->loop, &f->on_hup);
    uv_timer_init(&f->loop, &f->drain);
    uv_timer_init(&f->loop, &f->watch);
    f->handles_open = true;
    f->news.data = f->on_term.data = f->on_int.data = f->on_hup.data = f;
    f->drain.data = f->watch.data = f;
    uv_poll_start(&f->news, UV_READABLE, on_news);
    uv_signal_start(&f->on_term, on_stop_signal, SIGTERM);
    uv_signal_start(&f->on_int, on_stop_signal, SIGINT);
    uv_signal_start(&f->on_hup, on_reload_signal, SIGHUP);
    uv_timer_start(&f->watch, on_watch, 0, WATCH_MS);
    return true;
}

static bool open_http(struct front *f, struct status *st)
{
    const struct config *c = &f->cfg;
    struct http_options o = {
        .host = c->host,
        .port = (int32_t)c->port,
        .listen_fd = f->listen_fd,
        .connections_max = (int32_t)c->max_connections,
        .per_ip_max = (int32_t)c->connections_per_ip,
        .header_ms = (uint32_t)c->header_timeout_ms,
        .body_ms = (uint32_t)c->body_timeout_ms,
        .idle_ms = (uint32_t)c->idle_timeout_ms,
        .stall_ms = (uint32_t)c->write_timeout_ms,
        .log_requests = c->log_requests != 0,
        .routes = routes,
        .auth = f->auth,
        .admit = admit,
    };
    f->http = http_open(&o, &f->sv, st);
    if (!f->http)
        return false;
    log_event(LOG_INFO, "listening",
              LOG_S("host", f->listen_fd ? "socket of the service manager" : c->host),
              LOG_I("port", http_port(f->http)),
              LOG_S("keys", auth_has_keys(f->auth) ? "yes" : "no"));
    return true;
}

static bool front_open(struct front *f, struct status *st)
{
    if (!f->cfg.model[0])
        return status_fail(st, STATUS_BAD_INPUT,
                           "which model?  inferd serve --model FILE.gguf or FOLDER");
    f->auth = auth_open(f->cfg.api_key_file, st);
    if (!f->auth || !manager_socket(&f->listen_fd, st) || !check_exposure(f, st) ||
        !raise_descriptors(f, st))
        return false;
    f->watchdog_ns = manager_watchdog_ns();
    name_model(f);
    f->sv.model_name = f->model_name;
    f->sv.weights_as[0] = f->cfg.quantize;
    f->sv.weights_as[1] = f->cfg.quantize_head;
    f->sv.weights_as[2] = f->cfg.quantize_skip;
    f->sv.weights_as[3] = f->cfg.weights[0] == 'r' ? f->cfg.weights : NULL;
    f->sv.started_unix_s = clock_unix_s();
    f->sv.clock = &clock_real;
    config_limits(&f->cfg, &f->sv.limits);
    f->sv.metrics = metrics_open(f->model_name);
    if (!f->sv.metrics)
        return status_fail(st, STATUS_BUSY, "no memory for metrics");
    if (!open_model_text(f, st))
        return false;
    f->sv.tok = f->text.tok;
    f->sv.chat = f->chat;
    f->sv.bos_text = f->bos;
    f->sv.eos_text = f->eos;
    return open_scheduler(f, st) && open_loop(f, st) && open_http(f, st);
}

static bool is_idle(const struct front *f)
{
    struct scheduler_view v;
    scheduler_view(f->sv.sched, &v);
    return v.n_running == 0 && v.n_waiting == 0 && f->sv.n_prep == 0;
}

static void close_loop(struct front *f)
{
    uv_handle_t *const all[] = {
        (uv_handle_t *)&f->on_term, (uv_handle_t *)&f->on_int, (uv_handle_t *)&f->on_hup,
        (uv_handle_t *)&f->drain,   (uv_handle_t *)&f->news,   (uv_handle_t *)&f->watch,
    };
    if (f->http)
        http_stop(f->http); /* tells every call that its client is gone */
    /* Calls end when the scheduler has let their requests go; a stuck engine gets a second. */
    for (int i = 0; i < 20 && f->handles_open && !is_idle(f); i++) {
        uv_run(&f->loop, UV_RUN_NOWAIT);
        usleep(TICK_MS * 1000);
    }
    for (size_t i = 0; f->handles_open && i < sizeof all / sizeof *all; i++)
        uv_close(all[i], NULL);
    uv_run(&f->loop, UV_RUN_DEFAULT);
    uv_loop_close(&f->loop);
}

static void front_close(struct front *f)
{
    if (f->loop_open)
        close_loop(f);
    http_close(f->http);
    if (f->sv.sched) {
        scheduler_stop(f->sv.sched);
        scheduler_close(f->sv.sched);
    }
    chat_template_close(f->chat);
    model_text_close(&f->text);
    metrics_close(f->sv.metrics);
    auth_close(f->auth);
    config_close(&f->cfg);
    free(f);
}

int serve_main(int argc, char **argv)
{
    struct status st = {0};
    struct front *f = calloc(1, sizeof *f);
    int code = 1;
    if (!f)
        return 1;
    f->last_state = ENGINE_STARTING;
    if (!config_read(&f->cfg, argc, argv, &st) || !config_ranks(&f->cfg, &st)) {
        fprintf(stderr, "inferd: %s\n", st.msg);
        front_close(f);
        return 2;
    }
    log_init(config_log_level(&f->cfg), config_log_format(&f->cfg));
    signal(SIGPIPE, SIG_IGN);
    signal(SIGUSR1, SIG_IGN); /* what some log rotations send; the default would end the daemon */
    signal(SIGUSR2, SIG_IGN);
    setenv("UV_THREADPOOL_SIZE", "2", 1); /* prep threads; more would take cores from the engine */
    harden();
    warn_of_variables();
    if (f->cfg.rank > 0) {
        code = follow_run(&f->cfg);
    } else if (front_open(f, &st)) {
        uv_run(&f->loop, UV_RUN_DEFAULT);
        code = f->hopeless ? 1 : 0;
        log_event(LOG_INFO, "stopped", LOG_S("model", f->model_name));
    } else {
        log_event(LOG_ERROR, "cannot start", LOG_S("why", st.msg));
        code = st.code == STATUS_BAD_INPUT ? 2 : 1;
    }
    front_close(f);
    return code;
}
