/* weights.cu - brings weights to the device: several threads read, convert and copy at once.
 *
 * A weight is cut into chunks of whole rows.  A thread takes the next chunk, reads it (pread where
 * the file is known: no page faults in the way of the copy) into one of its two pinned buffers, converts what the
 * device holds in another type, and sends it on a stream of its own; while that copy runs it fills
 * the other buffer.  The queue is short, so weight_put tells how far things are.
 *
 * The device holds every matrix row after row in its activation type.  That goes for matrices of a
 * scheme as well: the threads make their rows, dequantize them, and put ordered columns back where x
 * has them, so a scheme saves bytes in the checkpoint and none on the device, and its rule for
 * activations does not apply. */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/cuda/cuda_host.h"
#include "kernels/half.h"

enum { THREADS_MAX = 12, QUEUE_MAX = 64 };
static const size_t BUFFER_BYTES = 8 << 20;

struct chunk { /* rows of one weight */
    weight_source src;
    enum dtype from;
    const struct scheme *scheme; /* of `from`, or NULL */
    int64_t first;               /* row of the weight, where there is a scheme */
    int64_t rows, cols;
    size_t src_bytes;
    char *to;
};

struct thread_buffers {
    char *pinned[2];
    char *raw;   /* a chunk in file layout, where it must be converted */
    float *row;  /* one row in float */
    cudaEvent_t sent[2];
    cudaStream_t stream;
};

struct loader {
    device *d;
    pthread_t thread[THREADS_MAX];
    int n_threads;
    pthread_mutex_t lock;
    pthread_cond_t has_chunk, has_room;
    chunk queue[QUEUE_MAX];
    int first, n;
    bool ended;
    status why; /* the first failure */
    cudaError_t fault;
};

namespace {

void loader_fail(loader *l, const status *why, cudaError_t e)
{
    pthread_mutex_lock(&l->lock);
    if (l->why.code == STATUS_OK)
        l->why = *why;
    if (l->fault == cudaSuccess)
        l->fault = e;
    pthread_mutex_unlock(&l->lock);
}

bool take_chunk(loader *l, chunk *c)
{
    pthread_mutex_lock(&l->lock);
    while (l->n == 0 && !l->ended)
        pthread_cond_wait(&l->has_chunk, &l->lock);
    const bool any = l->n > 0;
    if (any) {
        *c = l->queue[l->first];
        l->first = (l->first + 1) % QUEUE_MAX;
        l->n--;
        pthread_cond_signal(&l->has_room);
    }
    pthread_mutex_unlock(&l->lock);
    return any;
}

void put_chunk(loader *l, const chunk *c)
{
    pthread_mutex_lock(&l->lock);
    while (l->n == QUEUE_MAX)
        pthread_cond_wait(&l->has_room, &l->lock);
    l->queue[(l->first + l->n++) % QUEUE_MAX] = *c;
    pthread_cond_signal(&l->has_chunk);
    pthread_mutex_unlock(&l->lock);
}

bool read_piece(const weight_source *src, size_t skip, char *to, size_t n, status *st)
{
    if (src->fd < 0) {
        memcpy(to, static_cast<const char *>(src->at) + skip, n);
        return true;
    }
    for (size_t done = 0; done < n;) {
        const ssize_t got =
            pread(src->fd, to + done, n - done, (off_t)(src->offset + skip + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return status_fail(st, STATUS_IO, "read weights: %s",
                               got < 0 ? strerror(errno) : "the file ended");
        done += (size_t)got;
    }
    return true;
}

/* The rows of a chunk, one behind the other: at once, or each from where it begins. */
bool read_source(const chunk *c, char *to, status *st)
{
    const size_t row = c->src_bytes / (size_t)c->rows;
    if (c->src.row_bytes == 0 || c->src.row_bytes == row)
        return read_piece(&c->src, 0, to, c->src_bytes, st);
    for (int64_t r = 0; r < c->rows; r++)
        if (!read_piece(&c->src, (size_t)r * c->src.row_bytes, to + (size_t)r * row, row, st))
            return false;
    return true;
}

uint16_t narrow(enum dtype act, float v)
{
    return act == DT_F16 ? f32_to_f16(v) : f32_to_bf16(v);
}

void convert_rows(const chunk *c, const char *raw, float *row, enum dtype act, uint16_t *to)
{
    const size_t row_bytes = c->src_bytes / c->rows;
    for (int64_t r = 0; r < c->rows; r++) {
        dequantize_row(c->from, raw + r * row_bytes, row, c->cols);
        for (int64_t i = 0; i < c->cols; i++)
            to[r * c->cols + i] = narrow(act, row[i]);
    }
}

/* Bytes of one row as its source makes it. */
size_t made_row_bytes(const struct scheme *s, int64_t cols)
{
    return (size_t)cols + (size_t)scheme_groups(s, cols) * (sizeof(float) + sizeof(int16_t));
}

/* The rows of a chunk from their source, through `raw` (scales first: they want alignment). */
void make_rows(const chunk *c, char *raw, float *row, enum dtype act, uint16_t *to)
{
    const int64_t groups = scheme_groups(c->scheme, c->cols), n = c->rows * groups;
    const int32_t *order = c->scheme->ordered ? c->src.order : NULL;
    scheme_rows made = {};
    made.scales = reinterpret_cast<float *>(raw);
    made.zeros = c->scheme->has_zero ? reinterpret_cast<int16_t *>(made.scales + n) : NULL;
    made.codes = reinterpret_cast<uint8_t *>(reinterpret_cast<int16_t *>(made.scales + n) + n);
    c->src.rows(c->src.ctx, c->first, c->rows, &made);
    for (int64_t r = 0; r < c->rows; r++) {
        const scheme_rows one = {made.codes + r * c->cols, made.scales + r * groups,
                                 made.zeros ? made.zeros + r * groups : NULL};
        scheme_dequantize_row(c->scheme, &one, c->cols, row);
        for (int64_t i = 0; i < c->cols; i++)
            to[r * c->cols + (order ? order[i] : i)] = narrow(act, row[i]);
    }
}

bool fill(loader *l, const chunk *c, thread_buffers *b, char *pinned, status *st)
{
    if (c->scheme) {
        make_rows(c, b->raw, b->row, l->d->act, reinterpret_cast<uint16_t *>(pinned));
        return true;
    }
    if (c->from == l->d->act)
        return read_source(c, pinned, st);
    if (!read_source(c, b->raw, st))
        return false;
    convert_rows(c, b->raw, b->row, l->d->act, reinterpret_cast<uint16_t *>(pinned));
    return true;
}

cudaError_t open_buffers(thread_buffers *b, int index)
{
    *b = {};
    cudaError_t e = cudaSetDevice(index);
    for (int i = 0; i < 2 && e == cudaSuccess; i++) {
        e = cudaHostAlloc((void **)&b->pinned[i], BUFFER_BYTES, cudaHostAllocDefault);
        if (e == cudaSuccess)
            e = cudaEventCreateWithFlags(&b->sent[i], cudaEventDisableTiming);
    }
    if (e == cudaSuccess)
        e = cudaStreamCreateWithFlags(&b->stream, cudaStreamNonBlocking);
    b->raw = static_cast<char *>(malloc(2 * BUFFER_BYTES)); /* f32 is twice as wide */
    b->row = static_cast<float *>(malloc(2 * BUFFER_BYTES));
    return e == cudaSuccess && (!b->raw || !b->row) ? cudaErrorMemoryAllocation : e;
}

void close_buffers(thread_buffers *b)
{
    if (b->stream) {
        cudaStreamSynchronize(b->stream);
        cudaStreamDestroy(b->stream);
    }
    for (int i = 0; i < 2; i++) {
        cudaFreeHost(b->pinned[i]);
        if (b->sent[i])
            cudaEventDestroy(b->sent[i]);
    }
    free(b->raw);
    free(b->row);
}

void *load(void *arg)
{
    loader *l = static_cast<loader *>(arg);
    thread_buffers b;
    chunk c;
    status st = {};
    cudaError_t e = open_buffers(&b, l->d->index);
    for (int i = 0; take_chunk(l, &c); i ^= 1) { /* goes on after a failure: the queue must drain */
        if (e == cudaSuccess)
            e = cudaEventSynchronize(b.sent[i]);
        if (e != cudaSuccess || st.code != STATUS_OK || !fill(l, &c, &b, b.pinned[i], &st))
            continue;
        e = cudaMemcpyAsync(c.to, b.pinned[i], c.rows * c.cols * sizeof(uint16_t),
                            cudaMemcpyHostToDevice, b.stream);
        if (e == cudaSuccess)
            e = cudaEventRecord(b.sent[i], b.stream);
    }
    if (e == cudaSuccess && b.stream)
        e = cudaStreamSynchronize(b.stream);
    loader_fail(l, &st, e);
    close_buffers(&b);
    return NULL;
}

int count_threads()
{
    const long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n < 1 ? 1 : n > THREADS_MAX ? THREADS_MAX : (int)n;
}

loader *open_loader(device *d)
{
    loader *l = static_cast<loader *>(calloc(1, sizeof *l));
    if (!l)
        return NULL;
    l->d = d;
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->has_chunk, NULL);
    pthread_cond_init(&l->has_room, NULL);
    for (const int n = count_threads(); l->n_threads < n; l->n_threads++)
        if (pthread_create(&l->thread[l->n_threads], NULL, load, l) != 0)
            break;
    if (l->n_threads > 0)
        return l;
    free(l);
    return NULL;
}

void end_loader(loader *l)
{
    pthread_mutex_lock(&l->lock);
    l->ended = true;
    pthread_cond_broadcast(&l->has_chunk);
    pthread_mutex_unlock(&l->lock);
    for (int i = 0; i < l->n_threads; i++)
        pthread_join(l->thread[i], NULL);
    l->n_threads = 0;
}

} // namespace

void cuda_loader_close(loader *l)
{
    if (!l)
        return;
    end_loader(l);
    pthread_mutex_destroy(&l->lock);
    pthread_cond_destroy(&l->has_chunk);
    pthread_cond_destroy(&l->has_room);
    free(l);
}

size_t cuda_weight_bytes(const device *d, const tensor *w)
{
    (void)d;
    return (size_t)w->rows * (size_t)w->cols * sizeof(uint16_t);
}

void cuda_weight_put(device *d, tensor *w, const weight_source *src)
{
    size_t row_bytes;
    if (!d->host->loader)
        d->host->loader = open_loader(d);
    if (!d->host->loader || !tensor_file_bytes(w->dtype, 1, w->cols, &row_bytes)) {
        cuda_check(d, cudaErrorMemoryAllocation, "start the weight loader");
        return;
    }
    int64_t rows_max = (int64_t)(BUFFER_BYTES / sizeof(uint16_t)) / w->cols;
    if (w->scheme) { /* what is made of them fits `raw`, which is twice as long */
        const int64_t made = (int64_t)(2 * BUFFER_BYTES / made_row_bytes(w->scheme, w->cols));
        rows_max = made < rows_max ? made : rows_max;
    }
    for (int64_t r = 0; r < w->rows; r += rows_max) {
        const int64_t n = w->rows - r < rows_max ? w->rows - r : rows_max;
        const size_t skip = w->scheme ? 0 : (size_t)r * (src->row_bytes ? src->row_bytes : row_bytes);
        const chunk c = {
            .src = {.at = static_cast<const char *>(src->at) + skip,
                    .fd = src->fd,
                    .offset = src->offset + skip,
                    .row_bytes = src->row_bytes,
                    .rows = src->rows,
                    .ctx = src->ctx,
                    .order = src->order},
            .from = w->dtype,
            .scheme = w->scheme,
            .first = r,
            .rows = n,
            .cols = w->cols,
            .src_bytes = (size_t)n * row_bytes,
            .to = static_cast<char *>(w->data) + (size_t)r * w->cols * sizeof(uint16_t),
        };
        put_chunk(d->host->loader, &c);
    }
    w->dtype = d->act;
    w->scheme = NULL;
    w->layout = LAYOUT_PLAIN;
}

bool cuda_weights_done(device *d, status *st)
{
    loader *l = d->host->loader;
    d->host->loader = NULL;
    if (!l)
        return true;
    end_loader(l);
    const status why = l->why;
    const cudaError_t e = l->fault;
    cuda_loader_close(l);
    if (why.code != STATUS_OK) {
        *st = why;
        return false;
    }
    cuda_check(d, e, "load weights");
    return d->fault == cudaSuccess ||
           status_fail(st, STATUS_DEVICE, "CUDA device %d: %s: %s", d->index, d->fault_at,
                       cudaGetErrorString(d->fault));
}
