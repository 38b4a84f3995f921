/* safetensors_write.c - places tensors in files, and writes headers, bytes and the index.
 *
 * Format: huggingface/safetensors, "Format" in its README; the index as transformers writes it. */
#include "engine/safetensors_write.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"

enum { HEADER_BYTES_MAX = 64 << 20, SHARDS_MAX = 1024, NAME_BYTES = 48, HEADER_ALIGN = 8 };

struct placed {
    char *name;
    struct st_tensor t;
    int shard;
    uint64_t at; /* within the file's data */
};

struct shard {
    int fd; /* -1 = not open */
    uint64_t data, n_bytes;
};

struct safetensors_out {
    uint64_t shard_bytes, n_bytes;
    struct placed *tensor; /* [n] */
    int64_t n, n_max;
    struct shard *shard; /* [n_shards] */
    int n_shards;
};

size_t st_tensor_bytes(const struct st_tensor *t)
{
    size_t n = (size_t)element_traits[t->type].bytes;
    for (int i = 0; i < t->n_dims; i++)
        n *= (size_t)t->dim[i];
    return n;
}

/* ---- what there is ---- */

struct safetensors_out *safetensors_out_make(uint64_t shard_bytes)
{
    struct safetensors_out *o = calloc(1, sizeof *o);
    if (o)
        o->shard_bytes = shard_bytes;
    return o;
}

static bool grow(struct safetensors_out *o)
{
    if (o->n < o->n_max)
        return true;
    const int64_t n_max = o->n_max ? 2 * o->n_max : 256;
    struct placed *grown = realloc(o->tensor, (size_t)n_max * sizeof *grown);
    if (!grown)
        return false;
    o->tensor = grown;
    o->n_max = n_max;
    return true;
}

int64_t safetensors_out_add(struct safetensors_out *o, const char *name, const struct st_tensor *t,
                            bool follows)
{
    char *own = strdup(name);
    if (!own || !grow(o)) {
        free(own);
        return -1;
    }
    /* Until the files are placed, `shard` says whether it follows. */
    o->tensor[o->n] = (struct placed){.name = own, .t = *t, .shard = follows};
    o->n_bytes += st_tensor_bytes(t);
    return o->n++;
}

uint64_t safetensors_out_bytes(const struct safetensors_out *o)
{
    return o->n_bytes;
}

/* ---- places ---- */

/* Bytes of a tensor and those that follow it. */
static uint64_t run_bytes(const struct safetensors_out *o, int64_t first)
{
    uint64_t n = st_tensor_bytes(&o->tensor[first].t);
    for (int64_t i = first + 1; i < o->n && o->tensor[i].shard; i++)
        n += st_tensor_bytes(&o->tensor[i].t);
    return n;
}

static int choose_shards(struct safetensors_out *o)
{
    uint64_t n_used = 0;
    int shard = 0;
    for (int64_t i = 0; i < o->n; i++) {
        const bool follows = i > 0 && o->tensor[i].shard;
        if (!follows && n_used > 0 && n_used + run_bytes(o, i) > o->shard_bytes) {
            shard++;
            n_used = 0;
        }
        n_used += st_tensor_bytes(&o->tensor[i].t);
        o->tensor[i].shard = shard;
    }
    return shard + 1;
}

static void place_shard(struct safetensors_out *o, int shard)
{
    uint64_t at = 0;
    for (int width = 8; width > 0; width /= 2)
        for (int64_t i = 0; i < o->n; i++) {
            struct placed *p = &o->tensor[i];
            if (p->shard != shard || element_traits[p->t.type].bytes != width)
                continue;
            p->at = at;
            at += st_tensor_bytes(&p->t);
        }
    o->shard[shard].n_bytes = at;
}

static bool place_all(struct safetensors_out *o, struct status *st)
{
    o->n_shards = choose_shards(o);
    if (o->n_shards > SHARDS_MAX)
        return status_fail(st, STATUS_TOO_LARGE, "want at most %d files, found %d", SHARDS_MAX,
                           o->n_shards);
    o->shard = calloc((size_t)o->n_shards, sizeof *o->shard);
    if (!o->shard)
        return status_fail(st, STATUS_BUSY, "no memory for %d files", o->n_shards);
    for (int i = 0; i < o->n_shards; i++) {
        o->shard[i].fd = -1;
        place_shard(o, i);
    }
    return true;
}

/* ---- headers ---- */

static void put_entry(struct buf *b, const struct placed *p)
{
    buf_put_str(b, ",\"");
    buf_put_json(b, p->name, strlen(p->name));
    buf_printf(b, "\":{\"dtype\":\"%s\",\"shape\":[", element_traits[p->t.type].name);
    for (int i = 0; i < p->t.n_dims; i++)
        buf_printf(b, "%s%" PRId64, i ? "," : "", p->t.dim[i]);
    buf_printf(b, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", p->at,
               p->at + st_tensor_bytes(&p->t));
}

static bool write_all(int fd, const void *bytes, size_t n, uint64_t at, struct status *st)
{
    const char *from = bytes;
    while (n > 0) {
        const ssize_t done = pwrite(fd, from, n, (off_t)at);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return status_fail(st, STATUS_IO, "write: %s", strerror(done < 0 ? errno : ENOSPC));
        from += done;
        at += (uint64_t)done;
        n -= (size_t)done;
    }
    return true;
}

static bool put_header(struct safetensors_out *o, int shard, struct status *st)
{
    struct shard *s = &o->shard[shard];
    struct buf b;
    buf_init(&b, HEADER_BYTES_MAX);
    buf_put(&b, "\0\0\0\0\0\0\0\0", HEADER_ALIGN); /* the length goes here */
    buf_put_str(&b, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (int64_t i = 0; i < o->n; i++)
        if (o->tensor[i].shard == shard)
            put_entry(&b, &o->tensor[i]);
    buf_put_char(&b, '}');
    while (!b.failed && b.n % HEADER_ALIGN)
        buf_put_char(&b, ' ');
    const uint64_t n_header = b.n - HEADER_ALIGN;
    bool ok = !b.failed ||
              status_fail(st, STATUS_TOO_LARGE, "a header of more than %d bytes", HEADER_BYTES_MAX);
    if (ok) {
        memcpy(b.at, &n_header, sizeof n_header);
        s->data = b.n;
        ok = write_all(s->fd, b.at, b.n, 0, st);
    }
    buf_close(&b);
    return ok;
}

/* ---- files ---- */

static void shard_name(const struct safetensors_out *o, int shard, char name[NAME_BYTES])
{
    if (o->n_shards == 1)
        snprintf(name, NAME_BYTES, "model.safetensors");
    else
        snprintf(name, NAME_BYTES, "model-%05d-of-%05d.safetensors", shard + 1, o->n_shards);
}

static int create(int folder_fd, const char *name)
{
    return openat(folder_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
}

static bool open_shard(struct safetensors_out *o, int folder_fd, int shard, struct status *st)
{
    struct shard *s = &o->shard[shard];
    char name[NAME_BYTES];
    shard_name(o, shard, name);
    s->fd = create(folder_fd, name);
    if (s->fd < 0)
        return status_fail(st, STATUS_IO, "%s: %s", name, strerror(errno));
    if (!put_header(o, shard, st))
        return status_wrap(st, "%s", name);
    const int err = posix_fallocate(s->fd, 0, (off_t)(s->data + s->n_bytes));
    return err == 0 || status_fail(st, STATUS_IO, "%s: %" PRIu64 " MiB: %s", name,
                                   (s->data + s->n_bytes) >> 20, strerror(err));
}

bool safetensors_out_open(struct safetensors_out *o, int folder_fd, struct status *st)
{
    if (!place_all(o, st))
        return false;
    for (int i = 0; i < o->n_shards; i++)
        if (!open_shard(o, folder_fd, i, st))
            return false;
    return true;
}

bool safetensors_out_put(const struct safetensors_out *o, int64_t tensor, uint64_t at,
                         const void *bytes, size_t n, struct status *st)
{
    const struct placed *p = &o->tensor[tensor];
    const struct shard *s = &o->shard[p->shard];
    return write_all(s->fd, bytes, n, s->data + p->at + at, st) || status_wrap(st, "%s", p->name);
}

bool file_put(int folder_fd, const char *name, const void *bytes, size_t n, struct status *st)
{
    const int fd = create(folder_fd, name);
    if (fd < 0)
        return status_fail(st, STATUS_IO, "%s: %s", name, strerror(errno));
    bool ok = write_all(fd, bytes, n, 0, st) || status_wrap(st, "%s", name);
    if (ok && fsync(fd) != 0)
        ok = status_fail(st, STATUS_IO, "%s: %s", name, strerror(errno));
    close(fd);
    return ok;
}

static bool put_index(const struct safetensors_out *o, int folder_fd, struct status *st)
{
    struct buf b;
    buf_init(&b, HEADER_BYTES_MAX);
    buf_printf(&b, "{\n  \"metadata\": {\"total_size\": %" PRIu64 "},\n  \"weight_map\": {",
               o->n_bytes);
    for (int64_t i = 0; i < o->n; i++) {
        char name[NAME_BYTES];
        shard_name(o, o->tensor[i].shard, name);
        buf_printf(&b, "%s\n    \"", i ? "," : "");
        buf_put_json(&b, o->tensor[i].name, strlen(o->tensor[i].name));
        buf_printf(&b, "\": \"%s\"", name);
    }
    buf_put_str(&b, "\n  }\n}\n");
    const bool ok = b.failed ? status_fail(st, STATUS_BUSY, "no memory for the index")
                             : file_put(folder_fd, "model.safetensors.index.json", b.at, b.n, st);
    buf_close(&b);
    return ok;
}

bool safetensors_out_finish(struct safetensors_out *o, int folder_fd, struct status *st)
{
    for (int i = 0; i < o->n_shards; i++)
        if (fsync(o->shard[i].fd) != 0)
            return status_fail(st, STATUS_IO, "write to disk: %s", strerror(errno));
    return o->n_shards == 1 || put_index(o, folder_fd, st);
}

void safetensors_out_close(struct safetensors_out *o)
{
    if (!o)
        return;
    for (int i = 0; i < o->n_shards && o->shard; i++)
        if (o->shard[i].fd >= 0)
            close(o->shard[i].fd);
    for (int64_t i = 0; i < o->n; i++)
        free(o->tensor[i].name);
    free(o->tensor);
    free(o->shard);
    free(o);
}
