/* engine_local.c - the same worker as a thread of this process: for tests and debugging.
 *
 * It shares nothing but the link, as a child would; only its death cannot be survived. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/event.h"
#include "engine/engine_int.h"
#include "engine/link.h"

struct engine_local {
    struct engine engine;
    const struct clock *clock;
    const struct worker_backend *backend;
    struct link link;
    pthread_t thread;
    bool has_thread;
    _Atomic bool stop;
};

static struct engine_local *self(struct engine *e)
{
    return (struct engine_local *)e;
}

static void *run(void *arg)
{
    struct engine_local *l = arg;
    link_work(&l->link.fds, l->backend, &l->stop);
    return NULL;
}

static void give_up(struct engine *e, const struct status *why)
{
    e->state = ENGINE_DOWN;
    e->given_up = true;
    e->n_deaths++;
    e->why = *why;
}

static enum engine_state local_poll(struct engine *e, uint64_t now_ns)
{
    struct engine_local *l = self(e);
    struct status st = {0};
    if (e->state == ENGINE_DOWN)
        return e->state;
    link_front_drain(&l->link);
    link_front_progress(&l->link, &e->progress);
    if (e->state == ENGINE_STARTING)
        (void)link_front_planned(&l->link, &e->facts);
    const enum link_state state = link_front_state(&l->link);
    if (state == LINK_FAILED) {
        link_front_why(&l->link, &st);
        give_up(e, &st);
    } else if (state == LINK_READY && e->state == ENGINE_STARTING) {
        if (link_front_ready(&l->link, &e->facts, &st)) {
            e->state = ENGINE_READY;
            e->epoch = 1;
        } else {
            give_up(e, &st);
        }
    }
    if (l->link.n_submitted == l->link.n_answered)
        e->last_step_ns = now_ns;
    return e->state;
}

static struct step *local_step_room(struct engine *e)
{
    return e->state == ENGINE_READY ? link_front_room(&self(e)->link) : NULL;
}

static void local_submit(struct engine *e)
{
    link_front_submit(&self(e)->link);
}

static const struct step_result *local_result(struct engine *e)
{
    struct status st = {0};
    if (e->state != ENGINE_READY)
        return NULL;
    const struct step_result *r = link_front_result(&self(e)->link, &st);
    if (!r && st.code != STATUS_OK)
        give_up(e, &st);
    return r;
}

static void local_result_done(struct engine *e)
{
    link_front_result_done(&self(e)->link);
    e->last_step_ns = clock_now(self(e)->clock);
}

static int local_fd(const struct engine *e)
{
    return ((const struct engine_local *)e)->link.fds.result;
}

static int64_t local_wait_ms(const struct engine *e, uint64_t now_ns)
{
    (void)now_ns;
    return e->state == ENGINE_DOWN ? -1 : 1000;
}

static void local_kill(struct engine *e, const char *why)
{
    struct status st = {0};
    status_fail(&st, STATUS_DEVICE, "%s", why);
    give_up(e, &st);
}

static void local_close(struct engine *e)
{
    struct engine_local *l = self(e);
    if (l->has_thread) {
        l->stop = true;
        event_wake(l->link.fds.step);
        pthread_join(l->thread, NULL);
    }
    link_close(&l->link);
    free(l);
}

static const struct engine_vtable local_vtable = {
    .name = "local",
    .poll = local_poll,
    .step_room = local_step_room,
    .submit = local_submit,
    .result = local_result,
    .result_done = local_result_done,
    .fd = local_fd,
    .wait_ms = local_wait_ms,
    .kill = local_kill,
    .close = local_close,
};

struct engine *engine_local_open_with(const struct worker_backend *backend,
                                      const struct engine_options *o, const struct clock *clock,
                                      struct status *st)
{
    struct engine_local *l = calloc(1, sizeof *l);
    if (!l) {
        status_fail(st, STATUS_BUSY, "no memory for the engine's front");
        return NULL;
    }
    l->engine.vt = &local_vtable;
    l->clock = clock;
    l->backend = backend;
    l->link.fds = (struct link_fds){-1, -1, -1};
    if (!link_open(&l->link, o, st))
        goto fail;
    const int err = pthread_create(&l->thread, NULL, run, l);
    if (err) {
        status_fail(st, STATUS_IO, "start the engine thread: %s", strerror(err));
        goto fail;
    }
    l->has_thread = true;
    return &l->engine;

fail:
    local_close(&l->engine);
    return NULL;
}
