/* idle_module.cu - the CUDA module with a watch, for tests/gpu/idle.sh: how long the device waits
 * for the host between decode steps.
 *
 * Events mark where a step begins and ends in the stream, and, behind the copy of its arrays, when
 * the host has sent all of it.  The device is idle from one step's end to the next one's begin,
 * which is only in the stream when the host has come that far; and from there until all was sent,
 * if that is later.  What a graph takes to start is not seen.  After 32, 64, 128, ... steps of a
 * width a line says: steps, microseconds a step, idle microseconds a step, idle share.  Not at the
 * end: an engine is killed as often as it closes. */
#include <stdlib.h>

#include "kernels/cuda/cuda_host.h"
#include "tests/gpu/wrap_module.cuh"

namespace
{

enum { WIDTHS = 1025, MARKS = 2 * DEVICE_DEPTH, PRINT_MIN = 32 };
const float PAUSE_MS = 50; /* longer ones lie between measurements */

struct mark {
    cudaEvent_t begin, copied, end;
    int width; /* of a step that decodes; else 0 */
};

struct width {
    long n;
    double step_ms, idle_ms;
};

mark marks[MARKS];
width widths[WIDTHS];
uint64_t n_begun, n_waited;

void must(cudaError_t e)
{
    if (e == cudaSuccess)
        return;
    fprintf(stderr, "idle module: %s\n", cudaGetErrorString(e));
    abort();
}

bool step_begin(device *d, const batch *b, uint64_t shape)
{
    mark *m = &marks[n_begun++ % MARKS];
    if (!m->begin) {
        must(cudaEventCreate(&m->begin));
        must(cudaEventCreate(&m->copied));
        must(cudaEventCreate(&m->end));
    }
    m->width = b->n_tokens == b->n_seqs && b->n_tokens < WIDTHS ? b->n_tokens : 0;
    must(cudaEventRecord(m->begin, d->stream));
    const bool runs = real->ops->step_begin(d, b, shape);
    must(cudaEventRecord(m->copied, d->host->copies)); /* d->stream may be recording */
    return runs;
}

void step_end(device *d)
{
    real->ops->step_end(d);
    must(cudaEventRecord(marks[(n_begun - 1) % MARKS].end, d->stream));
}

float between(cudaEvent_t from, cudaEvent_t to)
{
    float ms;
    must(cudaEventElapsedTime(&ms, from, to));
    return ms;
}

void print_width(int i)
{
    const width *w = &widths[i];
    fprintf(stderr, "idle: width %4d  %6ld steps  %9.1f us a step  %7.2f us idle  %.2f %%\n", i,
            w->n, 1e3 * w->step_ms / (double)w->n, 1e3 * w->idle_ms / (double)w->n,
            100 * w->idle_ms / w->step_ms);
}

bool is_power_of_2(long n)
{
    return (n & (n - 1)) == 0;
}

/* The step that ended, if it is of the width of the one before. */
void note(const mark *before, const mark *m)
{
    if (m->width == 0 || before->width != m->width)
        return;
    width *w = &widths[m->width];
    const float gap = between(before->end, m->begin), late = between(m->begin, m->copied);
    if (gap > PAUSE_MS)
        return;
    w->n++;
    w->step_ms += between(before->end, m->end);
    w->idle_ms += gap + (late > 0 ? late : 0);
    if (w->n >= PRINT_MIN && is_power_of_2(w->n))
        print_width(m->width);
}

bool step_wait(device *d, sample_out *out, status *st)
{
    const mark *m = &marks[n_waited % MARKS], *before = &marks[(n_waited + MARKS - 1) % MARKS];
    const bool ok = real->ops->step_wait(d, out, st);
    if (ok) {
        must(cudaEventSynchronize(m->end));
        must(cudaEventSynchronize(m->copied));
    }
    if (ok && n_waited > 0)
        note(before, m);
    n_waited++;
    return ok;
}

void change(ops *table, const char *)
{
    table->step_begin = step_begin;
    table->step_end = step_end;
    table->step_wait = step_wait;
}

} // namespace
