#include "kernels/bench.h"

#include <string.h>

#include "kernels/bench_int.h"

enum { ROWS_MAX = 8192, ROWS_MAX_CPU = 256 };

static const struct bench_shape shapes[] = {
    {"8b", 4096, 14336, 32, 8, 128, 128256},
    {"1b", 2048, 8192, 32, 8, 64, 128256},
};
enum { N_SHAPES = sizeof shapes / sizeof shapes[0] };

static bool run_shape(const struct backend *backend, const struct kernel_bench *b,
                      const struct bench_shape *shape, const struct kernel_sink *sink,
                      struct status *st)
{
    struct bench_device d = {.sink = sink};
    const bool on_cpu = backend->ops->host_memory;
    const int rows = b->rows_max ? b->rows_max : on_cpu ? ROWS_MAX_CPU : ROWS_MAX;
    const bool ok =
        bench_device_open(&d, backend, &b->options, shape, rows, st) && bench_ops(&d, st);
    bench_device_close(&d);
    return ok || status_wrap(st, "%s", shape->name);
}

static bool begin(const struct kernel_bench *b, const struct kernel_sink *sink,
                  const struct backend **backend, struct status *st)
{
    struct status why;
    double copy = 0, flops = 0;
    struct device *dev = backend_open(b->device, &b->options, backend, &why, st);
    if (!dev)
        return false;
    const bool ok = !(*backend)->rates || (*backend)->rates(dev, &copy, &flops, st);
    if (ok)
        sink->begin(sink->ctx, (*backend)->variant(dev), copy, flops);
    (*backend)->ops->close(dev);
    return ok;
}

static bool is_wanted(const struct kernel_bench *b, const struct bench_shape *shape, bool on_cpu)
{
    return b->shape ? strcmp(b->shape, shape->name) == 0
                    : !on_cpu || shape == &shapes[N_SHAPES - 1];
}

bool kernel_bench_run(const struct kernel_bench *b, const struct kernel_sink *sink,
                      struct status *st)
{
    const struct backend *backend;
    int n = 0;
    if (!begin(b, sink, &backend, st))
        return false;
    for (int i = 0; i < N_SHAPES; i++) {
        if (!is_wanted(b, &shapes[i], backend->ops->host_memory))
            continue;
        if (!run_shape(backend, b, &shapes[i], sink, st))
            return false;
        n++;
    }
    return n > 0 ||
           status_fail(st, STATUS_BAD_INPUT, "shape: want 8b or 1b, found %.32s", b->shape);
}
