#include "server/bench_response.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

void response_init(struct response *r)
{
    *r = (struct response){.n_tokens = -1};
}

/* Keeps the first bytes of a line that is cut anywhere.  True at its end; *n_read is moved on. */
static bool read_line(char *line, uint32_t n_max, uint32_t *n_line, const char *bytes, size_t n,
                      size_t *n_read)
{
    const char *end = memchr(bytes, '\n', n);
    const size_t len = end ? (size_t)(end - bytes) : n;
    size_t room = n_max - 1 - *n_line;
    if (room > len)
        room = len;
    memcpy(line + *n_line, bytes, room);
    *n_line += (uint32_t)room;
    *n_read += len + (end != NULL);
    line[*n_line] = '\0';
    if (end && *n_line > 0 && line[*n_line - 1] == '\r')
        line[--*n_line] = '\0';
    return end != NULL;
}

/* ---- head ---- */

static const char *header_value(const char *line, const char *name)
{
    const size_t n = strlen(name);
    if (strncasecmp(line, name, n) != 0 || line[n] != ':')
        return NULL;
    return line + n + 1 + strspn(line + n + 1, " \t");
}

static void end_head(struct response *r)
{
    if (r->status >= 100 && r->status < 200)
        response_init(r); /* the final answer follows */
    else if (r->chunked)
        r->state = RESPONSE_CHUNK_SIZE;
    else if (r->has_length)
        r->state = r->left > 0 ? RESPONSE_BODY : RESPONSE_END;
    else
        r->state = RESPONSE_STREAM;
}

static void take_head_line(struct response *r)
{
    const char *v;
    if (r->status == 0) {
        const bool http_1 = strncmp(r->line, "HTTP/1.", 7) == 0 && r->n_line >= 12;
        r->status = http_1 ? (int)strtol(r->line + 9, NULL, 10) : 0;
        r->closes = http_1 && r->line[7] == '0';
        if (r->status < 100 || r->status > 599)
            r->state = RESPONSE_BROKEN;
    } else if (r->n_line == 0) {
        end_head(r);
    } else if ((v = header_value(r->line, "content-length"))) {
        r->has_length = true;
        r->left = strtoull(v, NULL, 10);
    } else if ((v = header_value(r->line, "transfer-encoding"))) {
        r->chunked = strcasecmp(v, "chunked") == 0;
    } else if ((v = header_value(r->line, "connection"))) {
        r->closes = strcasecmp(v, "close") == 0;
    }
    r->n_line = 0;
}

/* ---- body ---- */

/* What follows `"key":`, or NULL. */
static const char *find_value(const struct response *r, const char *key, size_t n)
{
    const char *at = memmem(r->event, r->n_event, key, n);
    return at ? at + n + strspn(at + n, " ") : NULL;
}
#define VALUE(r, key) find_value(r, "\"" key "\":", sizeof key + 2)

static bool begins(const char *value, const char *with)
{
    return value && strncmp(value, with, strlen(with)) == 0;
}

static void take_event(struct response *r)
{
    const char *tokens = VALUE(r, "completion_tokens");
    if (tokens)
        r->n_tokens = (int32_t)strtol(tokens, NULL, 10);
    if (begins(VALUE(r, "choices"), "[]"))
        return;
    if (begins(VALUE(r, "finish_reason"), "\"") && begins(VALUE(r, "text"), "\"\""))
        return;
    r->n_events++;
}

static void take_event_line(struct response *r)
{
    static const char data[] = "data:", error[] = "{\"error\"";
    if (strncmp(r->event, data, sizeof data - 1) == 0) {
        const char *text = r->event + sizeof data - 1;
        text += *text == ' ';
        if (strcmp(text, "[DONE]") == 0)
            r->done = true;
        else if (strncmp(text, error, sizeof error - 1) == 0)
            r->has_error = true;
        else
            take_event(r);
    }
    r->n_event = 0;
}

static void take_body(struct response *r, const char *bytes, size_t n)
{
    for (size_t i = 0; i < n;)
        if (read_line(r->event, sizeof r->event, &r->n_event, bytes + i, n - i, &i))
            take_event_line(r);
}

static size_t take_counted(struct response *r, const char *bytes, size_t n,
                           enum response_state next)
{
    const size_t len = n < r->left ? n : (size_t)r->left;
    take_body(r, bytes, len);
    r->left -= len;
    if (r->left == 0)
        r->state = next;
    return len;
}

static void take_chunk_size(struct response *r)
{
    char *end;
    r->left = strtoull(r->line, &end, 16);
    if (end == r->line)
        r->state = RESPONSE_BROKEN;
    else
        r->state = r->left > 0 ? RESPONSE_CHUNK : RESPONSE_TRAILER;
    r->n_line = 0;
}

size_t response_feed(struct response *r, const char *bytes, size_t n)
{
    size_t i = 0;
    while (i < n) {
        switch (r->state) {
        case RESPONSE_CHUNK:
            i += take_counted(r, bytes + i, n - i, RESPONSE_CHUNK_END);
            break;
        case RESPONSE_BODY:
            i += take_counted(r, bytes + i, n - i, RESPONSE_END);
            break;
        case RESPONSE_STREAM:
            take_body(r, bytes + i, n - i);
            return n;
        case RESPONSE_END:
        case RESPONSE_BROKEN:
            return i;
        default:
            if (!read_line(r->line, sizeof r->line, &r->n_line, bytes + i, n - i, &i))
                break;
            if (r->state == RESPONSE_HEAD) {
                take_head_line(r);
            } else if (r->state == RESPONSE_CHUNK_SIZE) {
                take_chunk_size(r);
            } else {
                const bool ends = r->state == RESPONSE_TRAILER && r->n_line == 0;
                if (r->state == RESPONSE_CHUNK_END)
                    r->state = RESPONSE_CHUNK_SIZE;
                else if (ends)
                    r->state = RESPONSE_END;
                r->n_line = 0;
            }
        }
    }
    return i;
}

bool response_closed(struct response *r)
{
    if (r->state == RESPONSE_STREAM)
        r->state = RESPONSE_END;
    r->closes = true;
    return r->state == RESPONSE_END;
}
