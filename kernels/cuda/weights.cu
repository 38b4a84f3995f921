/* weights.cu - brings weights to the device: several threads read, convert and copy at once.
 *
 * A weight is cut into chunks of whole rows.  A thread takes the next chunk, reads it (pread where
 * the file is known: no page faults in the way of the copy) into one of its two pinned buffers,
 * converts what the device holds in another type, and sends it on a stream of its own; while that
 * copy runs it fills the other buffer.  The queue is short, so weight_put tells how far things are.
 *
 * The device holds a matrix of a scheme or a block format as weight_layout.h has it, every other
 * row after row in its activation type.  A device without kernels for them holds those so, too, and
 * so does each with activations in f32: the threads make the rows, dequantize them, and put ordered
 * columns back where x has them. */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/cuda/cuda_host.h"
#include "kernels/cuda/weight_layout.h"
#include "kernels/half.h"

enum { THREADS_MAX = 12, QUEUE_MAX = 64 };
static const size_t BUFFER_BYTES = 8 << 20;

struct chunk { /* rows of one weight */
    weight_source src;
    tensor w;                 /* as the source has it; data is where it goes */
    const weight_layout *way; /* NULL <=> row after row, in the activation type */
    int64_t first, rows;
    size_t src_bytes;
};

struct thread_buffers {
    char *pinned[2];
    char *raw;  /* a chunk in file layout, where it must be converted */
    float *row; /* one row in float */
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

namespace
{

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
        const ssize_t got = pread(src->fd, to + done, n - done, (off_t)(src->offset + skip + done));
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

size_t act_bytes(enum dtype act)
{
    return (size_t)dtype_traits[act].block_bytes;
}

/* Value `at` of an array of activations. */
void put_value(enum dtype act, void *to, int64_t at, float v)
{
    if (act == DT_F32)
        static_cast<float *>(to)[at] = v;
    else
        static_cast<uint16_t *>(to)[at] = act == DT_F16 ? f32_to_f16(v) : f32_to_bf16(v);
}

void convert_rows(const chunk *c, const char *raw, float *row, enum dtype act, void *to)
{
    const int64_t cols = c->w.cols;
    const size_t row_bytes = c->src_bytes / c->rows;
    for (int64_t r = 0; r < c->rows; r++) {
        dequantize_row(c->w.dtype, raw + r * row_bytes, row, cols);
        for (int64_t i = 0; i < cols; i++)
            put_value(act, to, r * cols + i, row[i]);
    }
}

/* Bytes of one row as its source makes it. */
size_t made_row_bytes(const struct scheme *s, int64_t cols)
{
    return (size_t)cols + (size_t)scheme_groups(s, cols) * (sizeof(float) + sizeof(int16_t));
}

/* The rows of a chunk from their source, in `raw` (scales first: they want alignment). */
scheme_rows make_rows(const chunk *c, char *raw)
{
    const int64_t n = c->rows * scheme_groups(c->w.scheme, c->w.cols);
    scheme_rows made = {};
    made.scales = reinterpret_cast<float *>(raw);
    made.zeros = c->w.scheme->has_zero ? reinterpret_cast<int16_t *>(made.scales + n) : NULL;
    made.codes = reinterpret_cast<uint8_t *>(reinterpret_cast<int16_t *>(made.scales + n) + n);
    c->src.rows(c->src.ctx, c->first, c->rows, &made);
    return made;
}

void widen_rows(const chunk *c, const scheme_rows *made, float *row, enum dtype act, void *to)
{
    const int64_t cols = c->w.cols, groups = scheme_groups(c->w.scheme, cols);
    const int32_t *order = c->w.scheme->ordered ? c->src.order : NULL;
    scheme s = *c->w.scheme;
    s.value = act == DT_F32 ? DT_F32 : s.value; /* as the CPU, which does not round them either */
    for (int64_t r = 0; r < c->rows; r++) {
        const scheme_rows one = {made->codes + r * cols, made->scales + r * groups,
                                 made->zeros ? made->zeros + r * groups : NULL};
        scheme_dequantize_row(&s, &one, cols, row);
        for (int64_t i = 0; i < cols; i++)
            put_value(act, to, r * cols + (order ? order[i] : i), row[i]);
    }
}

/* Where the chunk's rows lie on the device. */
int chunk_pieces(const chunk *c, enum dtype act, weight_piece piece[WEIGHT_PIECES_MAX])
{
    const size_t row_bytes = (size_t)c->w.cols * act_bytes(act);
    if (c->way)
        return c->way->pieces(&c->w, c->first, c->rows, piece);
    piece[0] = {(size_t)c->first * row_bytes, (size_t)c->rows * row_bytes};
    return 1;
}

void pack_rows(const chunk *c, const scheme_rows *made, enum dtype act, char *pinned)
{
    weight_piece piece[WEIGHT_PIECES_MAX];
    void *to[WEIGHT_PIECES_MAX];
    const int n = chunk_pieces(c, act, piece);
    for (int i = 0; i < n; pinned += piece[i++].n_bytes)
        to[i] = pinned;
    c->way->pack(&c->w, act, made, c->rows, to);
}

bool fill(loader *l, const chunk *c, thread_buffers *b, char *pinned, status *st)
{
    const enum dtype act = l->d->act;
    if (c->w.scheme) {
        const scheme_rows made = make_rows(c, b->raw);
        if (c->way)
            pack_rows(c, &made, act, pinned);
        else
            widen_rows(c, &made, b->row, act, pinned);
        return true;
    }
    if (c->w.dtype == act)
        return read_source(c, pinned, st);
    if (!read_source(c, b->raw, st))
        return false;
    if (c->way) {
        void *const to[WEIGHT_PIECES_MAX] = {pinned};
        c->way->pack_file(&c->w, b->raw, c->rows, to);
        return true;
    }
    convert_rows(c, b->raw, b->row, act, pinned);
    return true;
}

/* The pieces lie in `pinned` one behind the other. */
cudaError_t send(const chunk *c, enum dtype act, const char *pinned, cudaStream_t stream)
{
    weight_piece piece[WEIGHT_PIECES_MAX];
    const int n = chunk_pieces(c, act, piece);
    cudaError_t e = cudaSuccess;
    for (int i = 0; i < n && e == cudaSuccess; pinned += piece[i++].n_bytes)
        e = cudaMemcpyAsync(static_cast<char *>(c->w.data) + piece[i].at, pinned, piece[i].n_bytes,
                            cudaMemcpyHostToDevice, stream);
    return e;
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
        e = send(&c, l->d->act, b.pinned[i], b.stream);
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

namespace
{

/* Kernels of schemes and blocks multiply 16-bit activations. */
const weight_layout *way_of(const device *d, const tensor *w)
{
    return d->act == DT_F32 ? NULL : weight_layout_of(w, d->cc);
}

} // namespace

size_t cuda_weight_bytes(const device *d, const tensor *w)
{
    const weight_layout *way = way_of(d, w);
    return way ? way->bytes(w) : (size_t)w->rows * (size_t)w->cols * act_bytes(d->act);
}

namespace
{

/* What is made of a chunk fits `raw`, what is sent `pinned`; 0 where the fewest rows that are
 * packed together do not. */
int64_t chunk_rows(const tensor *w, const weight_layout *way, enum dtype act)
{
    int64_t n = (int64_t)(BUFFER_BYTES / act_bytes(act)) / w->cols;
    if (w->scheme) {
        const int64_t made = (int64_t)(2 * BUFFER_BYTES / made_row_bytes(w->scheme, w->cols));
        n = made < n ? made : n;
    }
    if (!way)
        return n;
    tensor step = *w;
    step.rows = way->rows_step;
    const int64_t sent = (int64_t)(BUFFER_BYTES / way->bytes(&step)), read = n / way->rows_step;
    return (sent < read ? sent : read) * way->rows_step;
}

void put_chunks(device *d, const tensor *w, const weight_layout *way, const weight_source *src,
                size_t row_bytes)
{
    const int64_t rows_max = chunk_rows(w, way, d->act);
    if (rows_max < 1) {
        cuda_check(d, cudaErrorInvalidValue,
                   "load a quantized matrix: rows that are packed together take more than 8 MiB");
        return;
    }
    for (int64_t r = 0; r < w->rows; r += rows_max) {
        chunk c = {};
        const size_t apart = src->row_bytes ? src->row_bytes : row_bytes;
        const size_t skip = w->scheme ? 0 : (size_t)r * apart;
        c.src = *src;
        c.src.at = static_cast<const char *>(src->at) + skip;
        c.src.offset += skip;
        c.w = *w;
        c.way = way;
        c.first = r;
        c.rows = w->rows - r < rows_max ? w->rows - r : rows_max;
        c.src_bytes = (size_t)c.rows * row_bytes;
        put_chunk(d->host->loader, &c);
    }
}

} // namespace

void cuda_weight_put(device *d, tensor *w, const weight_source *src)
{
    const weight_layout *way = way_of(d, w);
    size_t row_bytes;
    if (!d->host->loader)
        d->host->loader = open_loader(d);
    if (!d->host->loader || !tensor_file_bytes(w->dtype, 1, w->cols, &row_bytes)) {
        cuda_check(d, cudaErrorMemoryAllocation, "start the weight loader");
        return;
    }
    put_chunks(d, w, way, src, row_bytes);
    if (way) {
        if (w->scheme && w->scheme->ordered) {
            cuda_check(d,
                       cudaMemcpyAsync(static_cast<char *>(w->data) + way->order_at(w), src->order,
                                       (size_t)w->cols * sizeof(int32_t), cudaMemcpyHostToDevice,
                                       d->stream),
                       "copy the order of columns");
            cuda_check(d, cudaStreamSynchronize(d->stream), "copy the order of columns");
        }
        w->layout = LAYOUT_PACKED;
        return;
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
