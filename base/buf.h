/* buf.h - a growing run of bytes with a hard maximum.
 *
 * For text whose size is not known before it is made: an HTTP body, a rendered
 * template, an SSE frame, a JSON answer.  Every buf has a limit; a write that
 * would pass it, or that finds no memory, changes nothing, marks the buf
 * `failed`, and every later write is refused too, so a writer may check once at
 * the end.  The bytes are always followed by a NUL that `n` does not count.
 *
 * Thread: one owner at a time. */
#ifndef BASE_BUF_H
#define BASE_BUF_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buf {
    char *at;     /* NULL <=> nothing was written yet */
    size_t n;     /* bytes written */
    size_t n_cap; /* bytes taken from the heap */
    size_t n_max; /* n never passes this */
    bool failed;  /* a write was refused: over n_max, or no memory */
};

void buf_init(struct buf *b, size_t n_max);
void buf_close(struct buf *b); /* accepts a zeroed buf; leaves it usable */
void buf_clear(struct buf *b); /* n = 0 and failed = false, memory is kept */

/* All return !b->failed. */
bool buf_put(struct buf *b, const void *bytes, size_t n);
bool buf_put_str(struct buf *b, const char *s);
bool buf_put_char(struct buf *b, char c);
bool buf_put_i64(struct buf *b, int64_t v);
bool buf_put_u64(struct buf *b, uint64_t v);
bool buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The shortest decimal text that reads back as the same float; NaN and infinities become
 * `null`, which is what JSON has for them. */
bool buf_put_f32(struct buf *b, float v);

/* The content of a JSON string, without the quotes.  Bytes that are not UTF-8 become U+FFFD,
 * so that the result is valid JSON whatever a model produced. */
bool buf_put_json(struct buf *b, const char *s, size_t n);

#endif
