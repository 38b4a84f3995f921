/* api_error.c - the OpenAI error object, and the only table from status codes to HTTP. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "server/http.h"

static const char *type_of(int http_status)
{
    switch (http_status) {
    case 401:
        return "authentication_error";
    case 403:
        return "permission_error";
    case 404:
        return "not_found_error";
    case 408:
        return "timeout_error";
    case 429:
        return "rate_limit_error";
    default:
        return http_status >= 500 ? "server_error" : "invalid_request_error";
    }
}

void api_error_set(struct api_error *e, int http_status, const char *code, const char *param,
                   const char *fmt, ...)
{
    memset(e, 0, sizeof *e);
    e->http_status = http_status;
    e->code = code;
    snprintf(e->param, sizeof e->param, "%s", param ? param : "");
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(e->message, sizeof e->message, fmt, ap);
    va_end(ap);
}

void api_error_from_status(struct api_error *e, const struct status *st)
{
    static const struct {
        int http_status;
        const char *code;
        bool tell; /* the message was written for the client */
    } table[STATUS_N] = {
        [STATUS_OK] = {500, "internal_error", false},
        [STATUS_BAD_INPUT] = {400, "invalid_value", true},
        [STATUS_TOO_LARGE] = {400, "context_length_exceeded", true},
        [STATUS_BUSY] = {429, "overloaded", true},
        [STATUS_CANCELLED] = {503, "cancelled", true},
        [STATUS_UNSUPPORTED] = {400, "unsupported", true},
        [STATUS_CORRUPT] = {500, "internal_error", false},
        [STATUS_IO] = {500, "internal_error", false},
        [STATUS_DEVICE] = {503, "engine_restarted", true},
    };
    enum status_code c = (unsigned)st->code < STATUS_N ? st->code : STATUS_OK;
    api_error_set(e, table[c].http_status, table[c].code, NULL, "%s",
                  table[c].tell ? st->msg : "the server failed to handle the request");
    if (e->http_status == 429 || e->http_status == 503)
        e->retry_after_s = 1;
}

static void put_string(struct buf *out, const char *s)
{
    if (!s || !s[0]) {
        buf_put_str(out, "null");
        return;
    }
    buf_put_char(out, '"');
    buf_put_json(out, s, strlen(s));
    buf_put_char(out, '"');
}

void api_error_write(const struct api_error *e, struct buf *out)
{
    buf_put_str(out, "{\"error\":{\"message\":\"");
    buf_put_json(out, e->message, strlen(e->message));
    buf_put_str(out, "\",\"type\":");
    put_string(out, e->type ? e->type : type_of(e->http_status));
    buf_put_str(out, ",\"param\":");
    put_string(out, e->param);
    buf_put_str(out, ",\"code\":");
    put_string(out, e->code);
    buf_put_str(out, "}}");
}
