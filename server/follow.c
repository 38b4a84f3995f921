/* follow.c - watches the engine process of a rank that serves nothing. */
#include "server/follow.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "server/config.h"

enum {
    WATCH_MS = 250,
    AFTER_DRAIN_MS = 5000, /* for rank 0 to end what a drain left */
    LONE_MS = 3000         /* for a group to be found, once a signal came */
};

struct follow {
    const struct config *cfg;
    struct engine *engine;
    int signals;              /* signalfd */
    uint32_t epoch, n_deaths; /* that were told */
    uint64_t stop_ns;         /* 0 = no signal came; else when to end at the latest */
    uint64_t lone_ns;         /* since when the engine has been in no group; 0 = it is in one */
};

static int watch_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP); /* rank 0's keys are not this process's */
    sigprocmask(SIG_BLOCK, &set, NULL);
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* The first asks to end with the group, which may drain; a second ends at once. */
static void take_signal(struct follow *f, uint64_t now_ns)
{
    struct signalfd_siginfo info;
    if (read(f->signals, &info, sizeof info) != sizeof info || info.ssi_signo == SIGHUP)
        return;
    const uint64_t wait_ms = f->stop_ns ? 0 : (uint64_t)f->cfg->drain_timeout_ms + AFTER_DRAIN_MS;
    log_event(LOG_INFO, "signal", LOG_I("number", info.ssi_signo),
              LOG_S("then", f->stop_ns ? "stop" : "end with the group"));
    f->stop_ns = now_ns + wait_ms * NS_PER_MS;
}

static void tell(struct follow *f)
{
    const struct engine *e = f->engine;
    if (e->n_deaths != f->n_deaths)
        log_event(LOG_ERROR, "engine died", LOG_I("rank", f->cfg->rank), LOG_S("why", e->why.msg),
                  LOG_I("deaths", e->n_deaths));
    if (e->epoch != f->epoch)
        log_event(LOG_INFO, "rank ready", LOG_I("rank", f->cfg->rank),
                  LOG_I("ranks", e->facts.n_ranks), LOG_S("isa", e->facts.isa));
    f->n_deaths = e->n_deaths;
    f->epoch = e->epoch;
}

/* A rank that nobody drains has nothing to wait for. */
static bool is_lone(struct follow *f, uint64_t now_ns)
{
    const struct engine *e = f->engine;
    const bool in_group =
        e->state == ENGINE_READY || (e->state == ENGINE_STARTING && e->progress.n_total > 0);
    if (in_group)
        f->lone_ns = 0;
    else if (f->lone_ns == 0)
        f->lone_ns = now_ns;
    return f->lone_ns && now_ns - f->lone_ns >= LONE_MS * NS_PER_MS;
}

static bool has_ended(const struct follow *f)
{
    return f->engine->state == ENGINE_DOWN && f->engine->why.code == STATUS_CANCELLED;
}

static int watch(struct follow *f)
{
    for (;;) {
        struct pollfd p[] = {{.fd = f->signals, .events = POLLIN},
                             {.fd = f->engine->vt->fd(f->engine), .events = POLLIN}};
        poll(p, 2, WATCH_MS);
        const uint64_t now_ns = clock_now(&clock_real);
        take_signal(f, now_ns);
        f->engine->vt->poll(f->engine, now_ns);
        if (has_ended(f))
            return 0;
        tell(f);
        const bool is_over =
            now_ns >= f->stop_ns || f->engine->state == ENGINE_DOWN || is_lone(f, now_ns);
        if (f->stop_ns && is_over)
            return 0;
        if (f->engine->given_up)
            return 1;
    }
}

int follow_run(const struct config *c)
{
    struct follow f = {.cfg = c, .signals = watch_signals()};
    struct engine_options o;
    struct status st = {0};
    config_engine(c, &o);
    if (f.signals < 0)
        status_fail(&st, STATUS_IO, "watch signals: %s", strerror(errno));
    else
        f.engine = engine_proc_open(&o, &clock_real, &st);
    if (!f.engine) {
        log_event(LOG_ERROR, "cannot start", LOG_S("why", st.msg));
        return 1;
    }
    log_event(LOG_INFO, "following", LOG_I("rank", c->rank), LOG_S("group", c->rank_group));
    const int code = watch(&f);
    log_event(LOG_INFO, "stopped", LOG_I("rank", c->rank));
    f.engine->vt->close(f.engine);
    close(f.signals);
    return code;
}
