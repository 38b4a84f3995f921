#include "server/bench_rates.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/check.h"
#include "kernels/backend.h"

static void ask(struct bench_rates *r, const struct engine_options *o)
{
    const bool is_f32 =
        o->dtype && strcmp(o->dtype, "f32") == 0; /* tensor cores have no part in it */
    const struct device_options options = {.n_threads = o->n_threads,
                                           .index = o->device_index,
                                           .act = is_f32 ? DT_F32 : DT_BF16,
                                           .memory_share = 1};
    const struct backend *backend;
    struct status why = {0};
    struct device *dev = backend_open(o->device, &options, &backend, &why, &why);
    if (!dev)
        return;
    if (backend->rates && !backend->rates(dev, &r->copy_bytes_s, &r->matmul_flops, &why))
        *r = (struct bench_rates){0};
    backend->ops->close(dev);
}

struct answer {
    struct bench_rates rates;
    struct status refused;
};

/* Nothing, where the process ended without one. */
static void read_answer(struct answer *a, int fd)
{
    ssize_t n;
    do
        n = read(fd, a, sizeof *a);
    while (n < 0 && errno == EINTR);
    if (n != (ssize_t)sizeof *a)
        *a = (struct answer){0};
}

bool bench_rates_measure(struct bench_rates *r, const struct engine_options *o, struct status *st)
{
    struct answer a = {0};
    int ends[2];
    *r = (struct bench_rates){0};
    if (pipe(ends) != 0)
        return true;
    const pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* a device is not kept busy for nobody */
        if (check_fits(o, &a.refused))
            ask(&a.rates, o);
        const bool ok = write(ends[1], &a, sizeof a) == (ssize_t)sizeof a;
        _exit(!ok);
    }
    close(ends[1]);
    if (pid > 0)
        read_answer(&a, ends[0]);
    close(ends[0]);
    while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
    *r = a.rates;
    if (a.refused.code != STATUS_OK)
        *st = a.refused;
    return a.refused.code == STATUS_OK;
}
