/* engine_proc.c - the engine as a child process that is watched and started again.
 *
 * One life is one link (shared memory and eventfds) and one child.  A death is noticed by the
 * pidfd, a failure by the link's state, a hang by the age of the oldest unanswered step, a stopped
 * process by its heartbeat.  All end the life the same way: SIGKILL, reap, forget the link,
 * wait out the back-off, begin the next. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/engine_int.h"
#include "engine/link.h"
#include "engine/ranks.h"

enum {
    DEATHS_MAX_DEFAULT = 5,
    DEATHS_KEPT = 32, /* most that deaths_max can ask for */
    BACKOFF_MS_MAX_DEFAULT = 10000,
    HEALTHY_MS = 60000, /* a life this long forgives the deaths before it */
    DEATHS_WINDOW_MS = 600000,
    LOAD_MS_MAX = 600000, /* to load the model */
    STEP_MS_MAX = 10000,  /* a step's time: this, */
    SUSPECT_MS = 1000,
    STEP_TOKEN_MS_MAX = 100,  /*   and this for each of its tokens */
    STOP_MS = 2000,           /* for a first rank to let the others go */
    RANK_STALL_KILL_MS = 5000 /* one rank of several: the others have given it up by then */
};

struct life {
    struct link link;
    pid_t pid;
    int pid_fd;
    uint64_t born_ns;
    uint64_t waiting_since_ns; /* oldest unanswered step became the oldest; 0 = none */
    int32_t waiting_tokens[ENGINE_DEPTH_MAX]; /* tokens of the unanswered steps, oldest first */
    int n_waiting;
    uint64_t suspect_ns; /* since when each look has found it late; 0 = the last did not */
};

struct engine_proc {
    struct engine engine;
    const struct clock *clock;
    struct engine_options options;
    char *text; /* what the options point into */
    struct life life;
    int epoll_fd;
    uint64_t retry_ns; /* DOWN: when to start again */
    int n_recent;      /* deaths since the last healthy life: the back-off's index */
    uint64_t death_ns[DEATHS_KEPT];
    uint64_t n_deaths_kept;
};

static struct engine_proc *self(struct engine *e)
{
    return (struct engine_proc *)e; /* `engine` is its first member */
}

/* --- environment and birth ------------------------------------------------------------------ */

/* Secrets stay with the front: the child gets only what loaders and device libraries read. */
static bool env_wanted(const char *entry)
{
    static const char *const prefix[] = {
        "PATH=",         "LD_LIBRARY_PATH=", "LANG=", "LC_",           "TZ=",
        "CUDA_",         "NVIDIA_",          "NCCL_", "ASAN_OPTIONS=", "UBSAN_OPTIONS=",
        "TSAN_OPTIONS=", "LSAN_OPTIONS="};
    for (size_t i = 0; i < sizeof prefix / sizeof *prefix; i++)
        if (strncmp(entry, prefix[i], strlen(prefix[i])) == 0)
            return true;
    return false;
}

enum { ENV_MAX = 64 };

static void pick_env(char *env[ENV_MAX + 1])
{
    int n = 0;
    for (char **e = environ; e && *e && n < ENV_MAX; e++)
        if (env_wanted(*e))
            env[n++] = *e;
    env[n] = NULL;
}

/* The three descriptors land on 3, 4, 5; they are first lifted above, so that no move covers
 * another's source. */
static bool plan_fds(posix_spawn_file_actions_t *actions, const struct link_fds *fds, int high[3])
{
    const int from[3] = {fds->shm, fds->step, fds->result};
    for (int i = 0; i < 3; i++) {
        high[i] = fcntl(from[i], F_DUPFD_CLOEXEC, 100);
        if (high[i] < 0 || posix_spawn_file_actions_adddup2(actions, high[i], ENGINE_FD_SHM + i))
            return false;
    }
    return posix_spawn_file_actions_addclosefrom_np(actions, ENGINE_FD_END) == 0;
}

static bool spawn(struct life *life, struct status *st)
{
    char *argv[] = {"inferd", "engine", NULL};
    char *env[ENV_MAX + 1];
    int high[3] = {-1, -1, -1};
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attr;
    sigset_t none;
    sigemptyset(&none);
    pick_env(env);
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attr);
    posix_spawnattr_setsigmask(&attr, &none);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK);

    int err = EMFILE;
    if (plan_fds(&actions, &life->link.fds, high))
        err = posix_spawn(&life->pid, "/proc/self/exe", &actions, &attr, argv, env);
    for (int i = 0; i < 3; i++)
        if (high[i] >= 0)
            close(high[i]);
    posix_spawnattr_destroy(&attr);
    posix_spawn_file_actions_destroy(&actions);
    if (err) {
        life->pid = 0;
        return status_fail(st, STATUS_IO, "start the engine process: %s", strerror(err));
    }
    return true;
}

static bool watch(int epoll_fd, int fd)
{
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    return epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0;
}

static bool life_begin(struct engine_proc *p, uint64_t now_ns, struct status *st)
{
    struct life *life = &p->life;
    *life = (struct life){.pid_fd = -1, .born_ns = now_ns};
    if (!link_open(&life->link, &p->options, st) || !spawn(life, st))
        return false;
    life->pid_fd = (int)syscall(SYS_pidfd_open, life->pid, 0);
    if (life->pid_fd >= 0)
        fcntl(life->pid_fd, F_SETFD, FD_CLOEXEC);
    if (life->pid_fd < 0 || !watch(p->epoll_fd, life->pid_fd) ||
        !watch(p->epoll_fd, life->link.fds.result))
        return status_fail(st, STATUS_IO, "watch the engine process: %s", strerror(errno));
    p->engine.pid = life->pid;
    p->engine.state = ENGINE_STARTING;
    p->engine.progress = (struct engine_progress){0};
    return true;
}

/* --- death ---------------------------------------------------------------------------------- */

static void life_end(struct engine_proc *p, bool for_good)
{
    struct life *life = &p->life;
    if (life->pid > 0) {
        kill(life->pid, SIGKILL);
        while (waitpid(life->pid, NULL, 0) < 0 && errno == EINTR)
            ;
    }
    if (life->pid_fd >= 0)
        close(life->pid_fd);
    link_close(&life->link); /* closing a descriptor takes it out of the epoll set */
    *life = (struct life){.pid_fd = -1, .link.fds = {-1, -1, -1}};
    ranks_retire(&p->options, p->engine.pid, for_good);
    p->engine.pid = 0;
    p->engine.stalled = false;
}

/* 0, 1, 2, 5, 10, 10, ... seconds, never more than the option's. */
static uint64_t backoff_ns(const struct engine_proc *p)
{
    static const int64_t seconds[] = {0, 1, 2, 5, 10};
    const int n = (int)(sizeof seconds / sizeof *seconds);
    const int64_t max =
        p->options.backoff_ms_max ? p->options.backoff_ms_max : BACKOFF_MS_MAX_DEFAULT;
    const int64_t ms = 1000 * seconds[p->n_recent < n ? p->n_recent : n - 1];
    return (uint64_t)(ms < max ? ms : max) * NS_PER_MS;
}

static bool too_many_deaths(const struct engine_proc *p, uint64_t now_ns)
{
    int32_t max = p->options.deaths_max ? p->options.deaths_max : DEATHS_MAX_DEFAULT;
    if (max < 0)
        return false;
    if (max > DEATHS_KEPT)
        max = DEATHS_KEPT;
    int n = 0;
    for (uint64_t i = 0; i < p->n_deaths_kept && i < DEATHS_KEPT; i++)
        n += now_ns - p->death_ns[i] < DEATHS_WINDOW_MS * NS_PER_MS;
    return n >= max;
}

/* A restart reads the same file with the same options: it cannot mend what they got wrong. */
static bool is_permanent(const struct engine_proc *p, enum status_code code)
{
    return p->engine.epoch == 0 &&
           (code == STATUS_BAD_INPUT || code == STATUS_TOO_LARGE || code == STATUS_UNSUPPORTED ||
            code == STATUS_CORRUPT || code == STATUS_IO);
}

static void die(struct engine_proc *p, uint64_t now_ns, const struct status *why)
{
    struct engine *e = &p->engine;
    if (now_ns - p->life.born_ns >= HEALTHY_MS * NS_PER_MS)
        p->n_recent = 0;
    life_end(p, false);
    e->state = ENGINE_DOWN;
    e->n_deaths++;
    e->why = *why;
    p->death_ns[p->n_deaths_kept++ % DEATHS_KEPT] = now_ns;
    p->retry_ns = now_ns + backoff_ns(p);
    p->n_recent++;
    e->given_up = is_permanent(p, why->code) || too_many_deaths(p, now_ns);
}

static void die_because(struct engine_proc *p, uint64_t now_ns, const char *why)
{
    struct status st = {0};
    status_fail(&st, STATUS_DEVICE, "%s", why);
    die(p, now_ns, &st);
}

/* Dead already?  Then why. */
static bool exited(struct life *life, struct status *st)
{
    siginfo_t info = {0};
    if (waitid(P_PID, (id_t)life->pid, &info, WEXITED | WNOHANG) != 0 || info.si_pid == 0)
        return false;
    life->pid = 0; /* reaped */
    if (link_front_state(&life->link) == LINK_FAILED)
        link_front_why(&life->link, st);
    else if (info.si_code == CLD_EXITED)
        status_fail(st, STATUS_DEVICE, "engine process exited with code %d", info.si_status);
    else
        status_fail(st, STATUS_DEVICE, "engine process was killed by signal %d (%s)",
                    info.si_status, strsignal(info.si_status));
    return true;
}

/* --- life ----------------------------------------------------------------------------------- */

static bool facts_equal(const struct engine_facts *a, const struct engine_facts *b)
{
    return memcmp(&a->limits, &b->limits, sizeof a->limits) == 0 && strcmp(a->arch, b->arch) == 0 &&
           strcmp(a->device, b->device) == 0;
}

static void become_ready(struct engine_proc *p, uint64_t now_ns)
{
    struct engine *e = &p->engine;
    struct engine_facts facts;
    struct status st = {0};
    if (!link_front_ready(&p->life.link, &facts, &st)) {
        die(p, now_ns, &st);
        return;
    }
    if (e->epoch > 0 && !facts_equal(&facts, &e->facts)) {
        status_fail(&st, STATUS_CORRUPT, "the model changed while the engine was down");
        die(p, now_ns, &st);
        e->given_up = true;
        return;
    }
    e->facts = facts;
    /* What this life took from the memory that was free, the next one takes again: the front's
     * tables have this shape. */
    p->options.kv_blocks = facts.limits.n_blocks;
    p->options.context_max = facts.limits.context_max;
    e->state = ENGINE_READY;
    e->epoch++;
    e->last_step_ns = now_ns;
}

/* Also of a worker that is dead by now. */
static void take_plan(struct engine_proc *p)
{
    if (p->engine.state == ENGINE_STARTING && p->engine.epoch == 0)
        (void)link_front_planned(&p->life.link, &p->engine.facts);
}

static void poll_starting(struct engine_proc *p, uint64_t now_ns)
{
    struct link *link = &p->life.link;
    link_front_progress(link, &p->engine.progress);
    switch (link_front_state(link)) {
    case LINK_READY:
        become_ready(p, now_ns);
        return;
    case LINK_FAILED: {
        struct status st = {0};
        link_front_why(link, &st);
        die(p, now_ns, &st);
        return;
    }
    case LINK_LOADING:
        break;
    }
    if (now_ns - p->life.born_ns > LOAD_MS_MAX * NS_PER_MS)
        die_because(p, now_ns, "engine did not load the model in 600 s");
}

static uint64_t age_ms(uint64_t now_ns, uint64_t since_ns)
{
    return now_ns > since_ns ? (now_ns - since_ns) / NS_PER_MS : 0;
}

/* Late at two looks, a second apart at least, so that a pause of this process (a stopped
 * virtual machine) is not taken for the child's. */
static void watch_ready(struct engine_proc *p, uint64_t now_ns)
{
    struct life *life = &p->life;
    const uint64_t beat_ms = age_ms(now_ns, link_front_heartbeat_ns(&life->link));
    p->engine.stalled = beat_ms > ENGINE_STALL_MS;
    const uint64_t limit_ms =
        STEP_MS_MAX + (uint64_t)STEP_TOKEN_MS_MAX * (uint64_t)life->waiting_tokens[0];
    const bool hung = life->n_waiting > 0 && age_ms(now_ns, life->waiting_since_ns) > limit_ms;
    const bool stopped =
        beat_ms > (uint64_t)(p->options.rank_group ? RANK_STALL_KILL_MS : ENGINE_STALL_KILL_MS);
    if (!hung && !stopped)
        life->suspect_ns = 0;
    else if (life->suspect_ns == 0)
        life->suspect_ns = now_ns;
    else if (now_ns - life->suspect_ns >= SUSPECT_MS * NS_PER_MS)
        die_because(p, now_ns,
                    hung                    ? "engine step did not end in its time"
                    : p->options.rank_group ? "engine process did not run for 5 s"
                                            : "engine process did not run for 15 s");
}

static void poll_ready(struct engine_proc *p, uint64_t now_ns)
{
    if (link_front_state(&p->life.link) == LINK_FAILED) {
        struct status st = {0};
        link_front_why(&p->life.link, &st);
        die(p, now_ns, &st);
        return;
    }
    if (p->life.n_waiting == 0)
        p->engine.last_step_ns = now_ns;
    watch_ready(p, now_ns);
}

static void poll_down(struct engine_proc *p, uint64_t now_ns)
{
    if (p->engine.given_up || now_ns < p->retry_ns)
        return;
    struct status st = {0};
    if (!life_begin(p, now_ns, &st))
        die(p, now_ns, &st);
}

static enum engine_state proc_poll(struct engine *e, uint64_t now_ns)
{
    struct engine_proc *p = self(e);
    if (e->state != ENGINE_DOWN) {
        struct status st = {0};
        link_front_drain(&p->life.link);
        take_plan(p);
        if (exited(&p->life, &st)) {
            die(p, now_ns, &st);
            return e->state; /* DOWN is seen at least once, however short */
        }
    }
    switch (e->state) {
    case ENGINE_STARTING:
        poll_starting(p, now_ns);
        break;
    case ENGINE_READY:
        poll_ready(p, now_ns);
        break;
    case ENGINE_DOWN:
        poll_down(p, now_ns);
        break;
    }
    return e->state;
}

static struct step *proc_step_room(struct engine *e)
{
    return e->state == ENGINE_READY ? link_front_room(&self(e)->life.link) : NULL;
}

static int32_t count_tokens(const struct step *s)
{
    int32_t n = 0;
    const struct step_row *row = step_rows(s);
    for (int32_t i = 0; i < s->n_rows; i++)
        n += row[i].n_tokens;
    return n;
}

static void proc_submit(struct engine *e)
{
    struct engine_proc *p = self(e);
    struct life *life = &p->life;
    const struct step *step = life->link.step;
    if (life->n_waiting == 0)
        life->waiting_since_ns = clock_now(p->clock);
    life->waiting_tokens[life->n_waiting++] = count_tokens(step);
    link_front_submit(&life->link);
}

static const struct step_result *proc_result(struct engine *e)
{
    struct engine_proc *p = self(e);
    if (e->state != ENGINE_READY)
        return NULL;
    struct status st = {0};
    const struct step_result *r = link_front_result(&p->life.link, &st);
    if (!r && st.code != STATUS_OK)
        die(p, clock_now(p->clock), &st);
    return r;
}

static void proc_result_done(struct engine *e)
{
    struct engine_proc *p = self(e);
    struct life *life = &p->life;
    link_front_result_done(&life->link);
    life->n_waiting--;
    for (int i = 0; i < life->n_waiting; i++)
        life->waiting_tokens[i] = life->waiting_tokens[i + 1];
    life->waiting_since_ns = e->last_step_ns = clock_now(p->clock);
}

static int proc_fd(const struct engine *e)
{
    return ((const struct engine_proc *)e)->epoll_fd;
}

static int64_t proc_wait_ms(const struct engine *e, uint64_t now_ns)
{
    const struct engine_proc *p = (const struct engine_proc *)e;
    if (e->state == ENGINE_DOWN)
        return e->given_up             ? -1
               : now_ns >= p->retry_ns ? 0
                                       : (int64_t)((p->retry_ns - now_ns) / NS_PER_MS) + 1;
    return 500; /* the watchdogs */
}

static void proc_kill(struct engine *e, const char *why)
{
    struct engine_proc *p = self(e);
    if (e->state != ENGINE_DOWN)
        die_because(p, clock_now(p->clock), why);
}

/* The others of a first rank hear from its process alone that this is for good.  The kernel ends a
 * child with the thread that started it (PR_SET_PDEATHSIG), which after a death is the caller's. */
static void proc_part(struct engine *e)
{
    struct engine_proc *p = self(e);
    struct pollfd gone = {.fd = p->life.pid_fd, .events = POLLIN};
    if (!p->options.rank_host || p->options.rank > 0 || p->engine.state != ENGINE_READY)
        return;
    link_front_stop(&p->life.link);
    poll(&gone, 1, STOP_MS);
}

static void proc_close(struct engine *e)
{
    struct engine_proc *p = self(e);
    life_end(p, true);
    if (p->epoll_fd >= 0)
        close(p->epoll_fd);
    free(p->text);
    free(p);
}

static const struct engine_vtable proc_vtable = {
    .name = "process",
    .poll = proc_poll,
    .step_room = proc_step_room,
    .submit = proc_submit,
    .result = proc_result,
    .result_done = proc_result_done,
    .fd = proc_fd,
    .wait_ms = proc_wait_ms,
    .kill = proc_kill,
    .part = proc_part,
    .close = proc_close,
};

/* The caller's strings may go; keep copies of all in one block. */
static bool keep_text(struct engine_proc *p, const struct engine_options *o)
{
    enum { N_TEXTS = 12 };
    const char *from[N_TEXTS] = {o->model_path,    o->cpu_precision, o->cpu_isa,   o->kv_dtype,
                                 o->device,        o->dtype,         o->quantize,  o->quantize_head,
                                 o->quantize_skip, o->rank_group,    o->rank_host, o->max_memory};
    const char **to[N_TEXTS] = {
        &p->options.model_path, &p->options.cpu_precision, &p->options.cpu_isa,
        &p->options.kv_dtype,   &p->options.device,        &p->options.dtype,
        &p->options.quantize,   &p->options.quantize_head, &p->options.quantize_skip,
        &p->options.rank_group, &p->options.rank_host,     &p->options.max_memory};
    size_t n = 0;
    for (int i = 0; i < N_TEXTS; i++)
        n += from[i] ? strlen(from[i]) + 1 : 0;
    char *at = p->text = malloc(n + 1);
    for (int i = 0; at && i < N_TEXTS; i++) {
        *to[i] = from[i] ? at : NULL;
        if (from[i])
            at = stpcpy(at, from[i]) + 1;
    }
    return p->text != NULL;
}

struct engine *engine_proc_open(const struct engine_options *o, const struct clock *clock,
                                struct status *st)
{
    struct engine_proc *p = calloc(1, sizeof *p);
    if (!p) {
        status_fail(st, STATUS_BUSY, "no memory for the engine's front");
        return NULL;
    }
    p->engine.vt = &proc_vtable;
    p->clock = clock;
    p->options = *o;
    p->life = (struct life){.pid_fd = -1, .link.fds = {-1, -1, -1}};
    p->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (p->epoll_fd < 0)
        status_fail(st, STATUS_IO, "make an epoll descriptor: %s", strerror(errno));
    else if (!keep_text(p, o))
        status_fail(st, STATUS_BUSY, "no memory for the engine's options");
    else if (life_begin(p, clock_now(clock), st))
        return &p->engine;
    proc_close(&p->engine);
    return NULL;
}
