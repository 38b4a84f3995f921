/* scheduler_thread.c - the thread that turns the scheduler, and sleeps when there is nothing. */
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>

#include "base/event.h"
#include "scheduler/scheduler_int.h"

static void sleep_until_woken(struct scheduler *s, int64_t ms)
{
    struct pollfd fd[] = {
        {.fd = s->wake_fd, .events = POLLIN},
        {.fd = s->engine->vt->fd(s->engine), .events = POLLIN}, /* -1 is passed over */
    };
    poll(fd, 2, ms > INT_MAX ? INT_MAX : (int)ms);
}

static void *run(void *arg)
{
    struct scheduler *s = arg;
    while (!atomic_load(&s->stopping)) {
        scheduler_turn(s);
        const int64_t ms = scheduler_idle_ms(s);
        if (ms == 0)
            continue;
        if (!s->has_tables) {
            sleep_until_woken(s, ms);
            event_drain(s->wake_fd);
        } else if (ring_sleep_begin(s->inbox)) {
            sleep_until_woken(s, ms);
            ring_sleep_end(s->inbox, s->wake_fd);
        }
    }
    if (s->engine->vt->part)
        s->engine->vt->part(s->engine);
    return NULL;
}

bool scheduler_start(struct scheduler *s, struct status *st)
{
    /* Signals are the loop's. */
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    const int err = pthread_create(&s->thread, NULL, run, s);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (err)
        return status_fail(st, STATUS_IO, "start the scheduler thread: %s", strerror(err));
    s->started = true;
    return true;
}

void scheduler_stop(struct scheduler *s)
{
    if (!s->started)
        return;
    atomic_store(&s->stopping, true);
    event_wake(s->wake_fd);
    pthread_join(s->thread, NULL);
    s->started = false;
}
