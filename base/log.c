/* log.c - one line per event, to standard error, in text or JSON. */
#include "base/log.h"

#include <errno.h>
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/buf.h"

enum { LINE_MAX_BYTES = 4096, TEXT_LINE_MAX = 255, DRAWN_MAX = 128 };

static struct {
    enum log_level min;
    enum log_format format;
    pthread_mutex_t mutex;
    _Atomic uint64_t n_dropped;
    int n_drawn; /* columns of the last line that log_draw has used; the mutex's */
} state = {.min = LOG_INFO, .mutex = PTHREAD_MUTEX_INITIALIZER};

static const char *const level_names[] = {"debug", "info", "warn", "error"};

void log_init(enum log_level min, enum log_format format)
{
    state.min = min;
    state.format = format;
}

uint64_t log_dropped(void)
{
    return state.n_dropped;
}

static void put_time(struct buf *b)
{
    struct timespec now;
    struct tm utc;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    char text[40];
    const size_t n = strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &utc);
    buf_put(b, text, n);
    buf_printf(b, ".%03ldZ", now.tv_nsec / 1000000);
}

static void put_value(struct buf *b, const struct log_field *f, bool quoted)
{
    switch (f->type) {
    case LOG_INT:
        buf_put_i64(b, f->i);
        return;
    case LOG_FLOAT:
        if (isfinite(f->f))
            buf_printf(b, "%.6g", f->f);
        else
            buf_put_str(b, "null");
        return;
    case LOG_STR:
        break;
    }
    const char *s = f->str ? f->str : "";
    const bool quote = quoted || *s == '\0' || strpbrk(s, " \"=\\\n\r\t");
    if (quote)
        buf_put_char(b, '"');
    buf_put_json(b, s, strlen(s));
    if (quote)
        buf_put_char(b, '"');
}

static void put_text(struct buf *b, enum log_level level, const char *msg,
                     const struct log_field *fields, int n)
{
    put_time(b);
    buf_printf(b, " %-5s ", level_names[level]);
    buf_put_json(b, msg, strlen(msg));
    for (int i = 0; i < n; i++) {
        buf_printf(b, "%s%s=", i ? " " : "  ", fields[i].key);
        put_value(b, &fields[i], false);
    }
}

static void put_json(struct buf *b, enum log_level level, const char *msg,
                     const struct log_field *fields, int n)
{
    buf_put_str(b, "{\"time\":\"");
    put_time(b);
    buf_printf(b, "\",\"level\":\"%s\",\"msg\":\"", level_names[level]);
    buf_put_json(b, msg, strlen(msg));
    buf_put_char(b, '"');
    for (int i = 0; i < n; i++) {
        buf_printf(b, ",\"%s\":", fields[i].key);
        put_value(b, &fields[i], true);
    }
    buf_put_char(b, '}');
}

/* A whole line or nothing: a pipe that is full loses the line, not the caller's time. */
static void write_line(const char *at, size_t n)
{
    struct pollfd p = {.fd = STDERR_FILENO, .events = POLLOUT};
    if (poll(&p, 1, 0) != 1 || !(p.revents & POLLOUT)) {
        state.n_dropped++;
        return;
    }
    ssize_t done;
    while ((done = write(STDERR_FILENO, at, n)) < 0 && errno == EINTR)
        ;
    if (done != (ssize_t)n)
        state.n_dropped++;
}

/* Spaces, without an escape sequence: not every terminal knows those. */
static void erase_drawn(void)
{
    char text[DRAWN_MAX + 3];
    const int n = snprintf(text, sizeof text, "\r%*s\r", state.n_drawn, "");
    if (state.n_drawn > 0)
        write_line(text, (size_t)n);
    state.n_drawn = 0;
}

bool log_draw(const char *text)
{
    char line[DRAWN_MAX + 2];
    if (state.format == LOG_JSON || state.min > LOG_INFO || !isatty(STDERR_FILENO))
        return false;
    pthread_mutex_lock(&state.mutex);
    erase_drawn();
    const int n = snprintf(line, sizeof line, "\r%.*s", DRAWN_MAX, text);
    write_line(line, (size_t)n);
    state.n_drawn = n - 1;
    pthread_mutex_unlock(&state.mutex);
    return true;
}

void log_write(enum log_level level, const char *msg, const struct log_field *fields, int n)
{
    if (level < state.min)
        return;
    struct buf line;
    buf_init(&line, LINE_MAX_BYTES);
    if (state.format == LOG_JSON)
        put_json(&line, level, msg, fields, n);
    else
        put_text(&line, level, msg, fields, n);
    buf_put_char(&line, '\n');
    if (line.failed) {
        state.n_dropped++; /* over LINE_MAX_BYTES: half a line would not parse */
    } else {
        pthread_mutex_lock(&state.mutex);
        erase_drawn();
        write_line(line.at, line.n);
        pthread_mutex_unlock(&state.mutex);
    }
    buf_close(&line);
}

/* As many lines as an event has room for. */
static void write_text_json(enum log_level level, const char *msg, const char *text)
{
    const size_t REST_BYTES = 256; /* time, level, keys and the count */
    struct buf kept, escaped;
    int n_left = 0;
    buf_init(&kept, LINE_MAX_BYTES);
    buf_init(&escaped, LINE_MAX_BYTES - REST_BYTES);
    buf_put_json(&escaped, msg, strlen(msg));
    for (size_t n; *text; text += n + (text[n] == '\n')) {
        n = strcspn(text, "\n");
        const int n_kept = n < TEXT_LINE_MAX ? (int)n : TEXT_LINE_MAX;
        if (buf_put_json(&escaped, text, (size_t)n_kept) && buf_put_str(&escaped, "\\n"))
            buf_printf(&kept, "%.*s\n", n_kept, text);
        else
            n_left++;
    }
    if (n_left > 0)
        log_event(level, msg, LOG_S("text", kept.at), LOG_I("lines_left_out", n_left));
    else
        log_event(level, msg, LOG_S("text", kept.at));
    buf_close(&kept);
    buf_close(&escaped);
}

void log_text(enum log_level level, const char *msg, const char *text)
{
    char line[TEXT_LINE_MAX + 1];
    if (state.format == LOG_JSON) {
        write_text_json(level, msg, text);
        return;
    }
    for (size_t n; *text; text += n + (text[n] == '\n')) {
        n = strcspn(text, "\n");
        snprintf(line, sizeof line, "%.*s", (int)n, text);
        log_write(level, line, NULL, 0);
    }
}
