/* link.c - the memory that front and worker share, and the two sides of it. */
#include "engine/link.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/event.h"
#include "base/ring.h"

enum {
    LINK_MAGIC = 0x696e6664, /* "infd" */
    LINK_VERSION = 5,
    CONTROL_BYTES = 16384, /* a multiple of every page size in use for it to be mapped apart */
    PATH_BYTES = 4096,
    HEARTBEAT_MS = 250,
    LOOK_US = 50 /* between looks at a step that runs, when another may come meanwhile */
};

struct shared_options { /* struct engine_options without pointers */
    char model_path[PATH_BYTES];
    char cpu_precision[16], cpu_isa[16], kv_dtype[16], device[16], dtype[16];
    char quantize[64], quantize_head[64], quantize_skip[1024];
    char rank_group[64], rank_host[256], max_memory[512];
    struct engine_options rest; /* its pointers are NULL here */
};

struct shared_plan { /* of the facts, what is known before weights are read */
    int32_t n_ranks;
    char device[8], isa[64], text[4096];
};

struct link_control {
    uint32_t magic, version;
    int64_t front_pid; /* the worker is its child, or a thread of it */
    struct shared_options options;
    _Atomic uint32_t is_planned; /* from here on the plan is final */
    struct shared_plan plan;
    _Atomic uint32_t state; /* enum link_state; what is below is final once it leaves LOADING */
    struct engine_facts facts;
    struct status why;
    _Atomic uint64_t n_done, n_total;
    _Atomic uint32_t stop;         /* the front writes */
    _Atomic uint64_t heartbeat_ns; /* CLOCK_MONOTONIC, the same in all processes */
};

_Static_assert(sizeof(struct link_control) <= CONTROL_BYTES, "control block fits its pages");

/* --- both sides ----------------------------------------------------------------------------- */

static uint32_t cell_bytes(size_t n)
{
    return (uint32_t)((n + 63) & ~(size_t)63);
}

/* A ring has a power of two. */
static uint32_t count_cells(int32_t depth)
{
    uint32_t n = 1;
    while (n < (uint32_t)depth)
        n *= 2;
    return n;
}

struct ring_layout {
    uint32_t n_cells, step_cell, result_cell;
    size_t results_at, n_bytes; /* from the end of the control block */
};

static bool lay_rings(const struct step_limits *l, struct ring_layout *lay, struct status *st)
{
    const bool sane =
        l->vocab > 0 && l->seqs_max > 0 && l->step_tokens_max > 0 && l->context_max > 0 &&
        l->n_blocks > 0 && l->block_tokens > 0 && l->history_max >= 0 && l->bias_max >= 0 &&
        l->vocab < 1 << 24 && l->seqs_max <= 1 << 14 && l->step_tokens_max <= 1 << 20 &&
        l->context_max <= 1 << 24 && l->history_max <= 1 << 28 && l->bias_max <= 1 << 24 &&
        (int64_t)l->n_blocks * l->block_tokens <= INT32_MAX && l->n_stages >= 0 &&
        l->n_stages <= ENGINE_RANKS_MAX;
    if (!sane || step_bytes_max(l) > 1u << 30 || step_result_bytes_max(l) > 1u << 30)
        return status_fail(st, STATUS_CORRUPT,
                           "engine limits out of range: vocab %d, sequences %d, step %d tokens, "
                           "context %d",
                           l->vocab, l->seqs_max, l->step_tokens_max, l->context_max);
    lay->n_cells = count_cells(engine_depth(l));
    lay->step_cell = cell_bytes(step_bytes_max(l));
    lay->result_cell = cell_bytes(step_result_bytes_max(l));
    lay->results_at = ring_bytes(lay->n_cells, lay->step_cell);
    lay->n_bytes = lay->results_at + ring_bytes(lay->n_cells, lay->result_cell);
    return true;
}

/* --- the front ------------------------------------------------------------------------------ */

static bool copy_text(char *to, size_t n_max, const char *from, const char *what, struct status *st)
{
    const size_t n = from ? strlen(from) : 0;
    if (n >= n_max)
        return status_fail(st, STATUS_TOO_LARGE, "%s is longer than %zu bytes", what, n_max - 1);
    memcpy(to, from ? from : "", n + 1);
    return true;
}

static bool copy_options(struct shared_options *to, const struct engine_options *o,
                         struct status *st)
{
    to->rest = *o;
    to->rest.model_path = to->rest.cpu_precision = to->rest.cpu_isa = to->rest.kv_dtype = NULL;
    to->rest.device = to->rest.dtype = to->rest.rank_group = to->rest.rank_host = NULL;
    to->rest.max_memory = NULL;
    to->rest.quantize = to->rest.quantize_head = to->rest.quantize_skip = NULL;
    return copy_text(to->model_path, sizeof to->model_path, o->model_path, "model path", st) &&
           copy_text(to->cpu_precision, sizeof to->cpu_precision, o->cpu_precision, "cpu precision",
                     st) &&
           copy_text(to->cpu_isa, sizeof to->cpu_isa, o->cpu_isa, "cpu isa", st) &&
           copy_text(to->kv_dtype, sizeof to->kv_dtype, o->kv_dtype, "kv dtype", st) &&
           copy_text(to->device, sizeof to->device, o->device, "device", st) &&
           copy_text(to->dtype, sizeof to->dtype, o->dtype, "dtype", st) &&
           copy_text(to->quantize, sizeof to->quantize, o->quantize, "quantize", st) &&
           copy_text(to->quantize_head, sizeof to->quantize_head, o->quantize_head, "quantize-head",
                     st) &&
           copy_text(to->quantize_skip, sizeof to->quantize_skip, o->quantize_skip, "quantize-skip",
                     st) &&
           copy_text(to->rank_group, sizeof to->rank_group, o->rank_group, "group of ranks", st) &&
           copy_text(to->rank_host, sizeof to->rank_host, o->rank_host, "address of rank 0", st) &&
           copy_text(to->max_memory, sizeof to->max_memory, o->max_memory, "max-memory", st);
}

bool link_open(struct link *k, const struct engine_options *o, struct status *st)
{
    *k = (struct link){.fds = {-1, -1, -1}};
    k->fds.shm = memfd_create("inferd-link", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    k->fds.step = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    k->fds.result = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (k->fds.shm < 0 || k->fds.step < 0 || k->fds.result < 0 ||
        ftruncate(k->fds.shm, CONTROL_BYTES) != 0 ||
        /* Were it cut under the front's mapping, the front's next look would be its death. */
        fcntl(k->fds.shm, F_ADD_SEALS, F_SEAL_SHRINK) != 0) {
        status_fail(st, STATUS_IO, "make shared memory for the engine: %s", strerror(errno));
        goto fail;
    }
    void *map = mmap(NULL, CONTROL_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, k->fds.shm, 0);
    if (map == MAP_FAILED) {
        status_fail(st, STATUS_IO, "map shared memory for the engine: %s", strerror(errno));
        goto fail;
    }
    k->control = map;
    k->control->magic = LINK_MAGIC;
    k->control->version = LINK_VERSION;
    k->control->front_pid = getpid();
    if (!copy_options(&k->control->options, o, st))
        goto fail;
    return true;

fail:
    link_close(k);
    return false;
}

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

void link_close(struct link *k)
{
    if (k->rings)
        munmap(k->rings, k->rings_bytes);
    if (k->control)
        munmap(k->control, CONTROL_BYTES);
    free(k->step);
    free(k->result);
    close_fd(&k->fds.shm);
    close_fd(&k->fds.step);
    close_fd(&k->fds.result);
    *k = (struct link){.fds = {-1, -1, -1}};
}

enum link_state link_front_state(const struct link *k)
{
    const uint32_t state = atomic_load_explicit(&k->control->state, memory_order_acquire);
    if (k->broken)
        return LINK_FAILED;
    return state <= LINK_FAILED ? (enum link_state)state : LINK_FAILED;
}

void link_front_progress(const struct link *k, struct engine_progress *p)
{
    p->n_done = k->control->n_done;
    p->n_total = k->control->n_total;
}

void link_front_why(const struct link *k, struct status *why)
{
    if (k->broken) {
        *why = (struct status){0};
        status_fail(why, STATUS_CORRUPT, "engine broke the rings it shares");
        return;
    }
    *why = k->control->why;
    why->msg[sizeof why->msg - 1] = '\0';
    if (why->code <= STATUS_OK || why->code >= STATUS_N)
        why->code = STATUS_DEVICE;
}

uint64_t link_front_heartbeat_ns(const struct link *k)
{
    return k->control->heartbeat_ns;
}

static void end_text(char *text, size_t n)
{
    text[n - 1] = '\0';
}

bool link_front_planned(const struct link *k, struct engine_facts *facts)
{
    const struct shared_plan *plan = &k->control->plan;
    if (!atomic_load_explicit(&k->control->is_planned, memory_order_acquire))
        return false;
    facts->n_ranks = plan->n_ranks;
    memcpy(facts->device, plan->device, sizeof facts->device);
    memcpy(facts->isa, plan->isa, sizeof facts->isa);
    memcpy(facts->plan, plan->text, sizeof facts->plan);
    end_text(facts->device, sizeof facts->device);
    end_text(facts->isa, sizeof facts->isa);
    end_text(facts->plan, sizeof facts->plan);
    return true;
}

bool link_front_ready(struct link *k, struct engine_facts *facts, struct status *st)
{
    *facts = k->control->facts;
    end_text(facts->arch, sizeof facts->arch);
    end_text(facts->device, sizeof facts->device);
    end_text(facts->isa, sizeof facts->isa);
    end_text(facts->activations, sizeof facts->activations);
    end_text(facts->kv_dtype, sizeof facts->kv_dtype);
    end_text(facts->plan, sizeof facts->plan);
    k->limits = facts->limits;

    struct ring_layout lay = {0};
    struct stat info;
    if (!lay_rings(&k->limits, &lay, st))
        return false;
    if (fstat(k->fds.shm, &info) != 0 || (uint64_t)info.st_size < CONTROL_BYTES + lay.n_bytes)
        return status_fail(st, STATUS_CORRUPT, "engine shares %lld bytes, want %zu",
                           (long long)info.st_size, CONTROL_BYTES + lay.n_bytes);
    void *map =
        mmap(NULL, lay.n_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, k->fds.shm, CONTROL_BYTES);
    if (map == MAP_FAILED)
        return status_fail(st, STATUS_IO, "map engine rings: %s", strerror(errno));
    k->rings = map;
    k->rings_bytes = lay.n_bytes;
    k->steps = map;
    k->results = (struct ring *)((char *)map + lay.results_at);
    if (!ring_valid(k->steps, lay.results_at) ||
        !ring_valid(k->results, lay.n_bytes - lay.results_at) ||
        k->steps->cell_bytes != lay.step_cell || k->results->cell_bytes != lay.result_cell)
        return status_fail(st, STATUS_CORRUPT, "engine rings have another shape than its limits");
    k->step_cell = lay.step_cell;
    k->result_cell = lay.result_cell;
    k->step = calloc(1, lay.step_cell); /* what is not filled in must not tell of the heap */
    k->result = malloc(lay.result_cell);
    if (!k->step || !k->result)
        return status_fail(st, STATUS_BUSY, "no memory for %u bytes of engine steps and results",
                           lay.step_cell + lay.result_cell);
    return true;
}

/* A ring computes its cells from numbers that the worker can write, too. */
static bool is_cell(const struct link *k, const struct ring *r, const void *at, uint32_t cell_bytes)
{
    const uintptr_t offset = (uintptr_t)at - ((uintptr_t)r + sizeof *r);
    return at && offset % cell_bytes == 0 &&
           offset / cell_bytes < count_cells(engine_depth(&k->limits));
}

struct step *link_front_room(struct link *k)
{
    return k->n_submitted - k->n_answered < (uint64_t)engine_depth(&k->limits) ? k->step : NULL;
}

void link_front_submit(struct link *k)
{
    void *cell = ring_put_begin(k->steps);
    k->n_submitted++;
    if (!is_cell(k, k->steps, cell, k->step_cell)) {
        k->broken = true;
        return;
    }
    memcpy(cell, k->step, k->step->n_bytes);
    ring_put_end(k->steps);
    ring_wake(k->steps, k->fds.step);
}

const struct step_result *link_front_result(struct link *k, struct status *st)
{
    if (k->has_result)
        return k->result;
    const struct step_result *shared = ring_take_begin(k->results);
    if (!shared)
        return NULL;
    if (!is_cell(k, k->results, shared, k->result_cell)) {
        k->broken = true;
        link_front_why(k, st);
        return NULL;
    }
    uint32_t n = shared->n_bytes;
    if (n > k->result_cell)
        n = k->result_cell;
    memcpy(k->result, shared, n < sizeof *shared ? sizeof *shared : n);
    ring_take_end(k->results);
    if (!step_result_check(k->result, n, &k->limits, st)) {
        status_wrap(st, "engine result %llu", (unsigned long long)k->n_answered + 1);
        return NULL;
    }
    k->has_result = true;
    return k->result;
}

void link_front_result_done(struct link *k)
{
    k->has_result = false;
    k->n_answered++;
}

void link_front_stop(struct link *k)
{
    k->control->stop = 1;
    event_wake(k->fds.step);
}

void link_front_drain(struct link *k)
{
    event_drain(k->fds.result);
}

/* --- the worker ----------------------------------------------------------------------------- */

struct heartbeat {
    struct link_control *control;
    pthread_t thread;
    int stop_fd;
};

/* A thread of its own: it says that the process runs, whatever the step does.  The step's own
 * time is watched by the front. */
static void *beat(void *arg)
{
    struct heartbeat *h = arg;
    struct pollfd p = {.fd = h->stop_fd, .events = POLLIN};
    do {
        h->control->heartbeat_ns = clock_now(&clock_real);
    } while (poll(&p, 1, HEARTBEAT_MS) <= 0);
    return NULL;
}

static bool heartbeat_start(struct heartbeat *h, struct link_control *control, struct status *st)
{
    h->control = control;
    control->heartbeat_ns = clock_now(&clock_real);
    h->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    const int err = h->stop_fd < 0 ? errno : pthread_create(&h->thread, NULL, beat, h);
    if (err == 0)
        return true;
    close_fd(&h->stop_fd);
    return status_fail(st, STATUS_IO, "start the engine's heartbeat: %s", strerror(err));
}

static void heartbeat_stop(struct heartbeat *h)
{
    event_wake(h->stop_fd);
    pthread_join(h->thread, NULL);
    close_fd(&h->stop_fd);
}

struct work { /* the worker's side */
    const struct link_fds *fds;
    struct link_control *control;
    void *runner;
    const struct worker_backend *backend;
    struct ring *steps, *results;
    void *rings;
    size_t rings_bytes;
    struct step_limits limits;
    int n_flying; /* steps submitted and unanswered */
    uint64_t n_answered;
};

static void on_planned(void *ctx, const struct engine_facts *facts)
{
    struct work *w = ctx;
    struct shared_plan *plan = &w->control->plan;
    static_assert(sizeof plan->device == sizeof facts->device &&
                      sizeof plan->isa == sizeof facts->isa &&
                      sizeof plan->text == sizeof facts->plan,
                  "copied whole");
    plan->n_ranks = facts->n_ranks;
    memcpy(plan->device, facts->device, sizeof plan->device);
    memcpy(plan->isa, facts->isa, sizeof plan->isa);
    memcpy(plan->text, facts->plan, sizeof plan->text);
    atomic_store_explicit(&w->control->is_planned, 1, memory_order_release);
    event_wake(w->fds->result);
}

static void on_progress(void *ctx, uint64_t n_done, uint64_t n_total)
{
    struct work *w = ctx;
    w->control->n_total = n_total;
    w->control->n_done = n_done;
    event_wake(w->fds->result);
}

static const char *text_or_null(const char *s)
{
    return *s ? s : NULL;
}

static bool work_load(struct work *w, struct status *st)
{
    const struct shared_options *shared = &w->control->options;
    struct engine_options o = shared->rest;
    o.model_path = shared->model_path;
    o.cpu_precision = text_or_null(shared->cpu_precision);
    o.cpu_isa = text_or_null(shared->cpu_isa);
    o.kv_dtype = text_or_null(shared->kv_dtype);
    o.device = text_or_null(shared->device);
    o.dtype = text_or_null(shared->dtype);
    o.quantize = text_or_null(shared->quantize);
    o.quantize_head = text_or_null(shared->quantize_head);
    o.quantize_skip = text_or_null(shared->quantize_skip);
    o.rank_group = text_or_null(shared->rank_group);
    o.rank_host = text_or_null(shared->rank_host);
    o.max_memory = text_or_null(shared->max_memory);
    const struct load_watch watch = {.planned = on_planned, .progress = on_progress, .ctx = w};
    w->runner = w->backend->open(&o, &watch, st);
    return w->runner != NULL;
}

static bool work_share(struct work *w, struct status *st)
{
    const struct engine_facts *facts = w->backend->facts(w->runner);
    struct ring_layout lay = {0};
    if (!lay_rings(&facts->limits, &lay, st))
        return false;
    if (ftruncate(w->fds->shm, (off_t)(CONTROL_BYTES + lay.n_bytes)) != 0)
        return status_fail(st, STATUS_IO, "grow shared memory to %zu bytes: %s", lay.n_bytes,
                           strerror(errno));
    void *map =
        mmap(NULL, lay.n_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, w->fds->shm, CONTROL_BYTES);
    if (map == MAP_FAILED)
        return status_fail(st, STATUS_IO, "map rings: %s", strerror(errno));
    w->rings = map;
    w->rings_bytes = lay.n_bytes;
    w->steps = map;
    w->results = (struct ring *)((char *)map + lay.results_at);
    ring_init(w->steps, lay.n_cells, lay.step_cell);
    ring_init(w->results, lay.n_cells, lay.result_cell);
    w->limits = facts->limits;
    w->control->facts = *facts;
    return true;
}

/* Until a step comes, or the time is over. */
static void wait_for_step(struct work *w, struct timespec longest)
{
    if (!ring_sleep_begin(w->steps))
        return;
    struct pollfd p = {.fd = w->fds->step, .events = POLLIN};
    ppoll(&p, 1, &longest, NULL);
    ring_sleep_end(w->steps, w->fds->step);
}

static bool work_submit(struct work *w, const struct step *step, struct status *st)
{
    if (!step_check(step, w->steps->cell_bytes, &w->limits, st) ||
        !w->backend->submit(w->runner, step, st))
        return status_wrap(st, "step %llu", (unsigned long long)step->id);
    ring_take_end(w->steps);
    w->n_flying++;
    return true;
}

static bool work_answer(struct work *w, struct status *st)
{
    void *result = ring_put_begin(w->results);
    if (!result)
        return status_fail(st, STATUS_CORRUPT, "more steps than the front may submit");
    if (!w->backend->result(w->runner, result, st))
        return status_wrap(st, "step %llu", (unsigned long long)w->n_answered + 1);
    w->n_flying--;
    w->n_answered++;
    ring_put_end(w->results);
    event_wake(w->fds->result);
    return true;
}

/* A finished step is answered first; then the next is taken, which may be while one runs.  With
 * all that may fly there is nothing to do but wait for the oldest. */
static bool work_once(struct work *w, struct status *st)
{
    static const struct timespec look = {.tv_nsec = LOOK_US * 1000};
    static const struct timespec sleep = {.tv_sec = 1}; /* at most, to look at `stop` */
    if (w->n_flying == engine_depth(&w->limits) ||
        (w->n_flying > 0 && w->backend->ready(w->runner)))
        return work_answer(w, st);
    const struct step *step = ring_take_begin(w->steps);
    if (step)
        return work_submit(w, step, st);
    if (w->n_flying == 0 && w->backend->healthy && !w->backend->healthy(w->runner, st))
        return false;
    wait_for_step(w, w->n_flying > 0 ? look : sleep);
    return true;
}

static bool work_run(struct work *w, const _Atomic bool *stop, struct status *st)
{
    while ((!stop || !*stop) && w->control->stop == 0)
        if (!work_once(w, st))
            return false;
    return true;
}

static void set_state(struct work *w, enum link_state state)
{
    atomic_store_explicit(&w->control->state, state, memory_order_release);
    event_wake(w->fds->result);
}

bool link_work(const struct link_fds *fds, const struct worker_backend *backend,
               const _Atomic bool *stop)
{
    struct work w = {.fds = fds, .backend = backend};
    void *map = mmap(NULL, CONTROL_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fds->shm, 0);
    if (map == MAP_FAILED)
        return false;
    w.control = map;
    bool ok = w.control->magic == LINK_MAGIC && w.control->version == LINK_VERSION;

    struct status st = {0};
    struct heartbeat heart = {.stop_fd = -1};
    if (!ok)
        status_fail(&st, STATUS_CORRUPT, "front and engine are of different versions");
    else if (w.control->front_pid != getppid() && w.control->front_pid != getpid())
        ok = status_fail(&st, STATUS_CANCELLED, "the front is gone");
    ok = ok && heartbeat_start(&heart, w.control, &st);
    ok = ok && work_load(&w, &st) && work_share(&w, &st);
    if (ok) {
        set_state(&w, LINK_READY);
        ok = work_run(&w, stop, &st);
    }
    if (!ok) {
        w.control->why = st;
        set_state(&w, LINK_FAILED);
    }
    if (heart.stop_fd >= 0)
        heartbeat_stop(&heart);
    if (w.runner)
        backend->close(w.runner);
    if (w.rings)
        munmap(w.rings, w.rings_bytes);
    munmap(map, CONTROL_BYTES);
    return ok;
}
