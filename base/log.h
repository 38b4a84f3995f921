/* log.h - one line per event, to standard error, in text or JSON.
 *
 * A line has a level, a message and key=value fields.  Text is
 *     2026-11-22T10:00:00.123Z info  engine ready  model=smollm2 load_ms=412
 * and JSON is one object with the same keys.  Values are escaped, so input can not
 * forge a line.  Writing never blocks the caller for long and never fails the
 * caller: a line that cannot be written is dropped and counted.
 *
 * Prompts, keys and answers are never logged.
 *
 * Thread: any.  One mutex orders whole lines. */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stdbool.h>
#include <stdint.h>

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };
enum log_format { LOG_TEXT, LOG_JSON };

struct log_field {
    const char *key;
    enum { LOG_STR, LOG_INT, LOG_FLOAT } type;
    union {
        const char *str;
        int64_t i;
        double f;
    };
};

#define LOG_S(k, v)                                                                                \
    {                                                                                              \
        .key = (k), .type = LOG_STR, .str = (v)                                                    \
    }
#define LOG_I(k, v)                                                                                \
    {                                                                                              \
        .key = (k), .type = LOG_INT, .i = (int64_t)(v)                                             \
    }
#define LOG_F(k, v)                                                                                \
    {                                                                                              \
        .key = (k), .type = LOG_FLOAT, .f = (v)                                                    \
    }

void log_init(enum log_level min, enum log_format format); /* before threads start */
void log_write(enum log_level level, const char *msg, const struct log_field *fields, int n);
/* A text of several lines, each cut at 255 bytes: in text each is a line of its own, in JSON as
 * many as there is room for are the "text" of one, and "lines_left_out" counts the others. */
void log_text(enum log_level level, const char *msg, const char *text);
/* Draws over the terminal's last line, at level info; the next line of the log takes its place.
 * False where lines should be written instead: no terminal, or JSON. */
bool log_draw(const char *text);
uint64_t log_dropped(void);

/* log_event(LOG_INFO, "engine ready", LOG_S("model", name), LOG_I("load_ms", ms)); */
#define log_event(level, msg, ...)                                                                 \
    log_write(                                                                                     \
        (level), (msg), (const struct log_field[]){{0}, ##__VA_ARGS__} + 1,                        \
        (int)(sizeof((const struct log_field[]){{0}, ##__VA_ARGS__}) / sizeof(struct log_field)) - \
            1)

#endif
