/* http_guard.h - is this request head safe to act on, before anything acts on it?
 *
 * libmicrohttpd 0.9.75 takes two different Content-Length headers, Content-Length
 * together with Transfer-Encoding, unknown transfer codings, obsolete line folding,
 * bare line feeds and %00: each lets two readers of one connection disagree about where a
 * request ends.  Whatever is ambiguous is refused here, and its connection closed.
 *
 * Three steps, in the order a head arrives: guard_target (the raw target), guard_header
 * (each line), guard_finish (what only all lines together can say).
 *
 * Known limit: what the library itself refuses (a malformed Content-Length, a head
 * larger than its pool) is answered by it in HTML.
 *
 * Thread: any; pure. */
#ifndef SERVER_HTTP_GUARD_H
#define SERVER_HTTP_GUARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    GUARD_TARGET_MAX = 8192, /* bytes of the raw target */
    GUARD_PATH_MAX = 512,    /* bytes of the decoded path that routes see */
    GUARD_HEADERS_MAX = 100,
    GUARD_HEADER_BYTES_MAX = 16384,
    GUARD_HOST_MAX = 255,
};

enum guard_fault {
    GUARD_OK,
    GUARD_BAD_TARGET,
    GUARD_TARGET_TOO_LONG,
    GUARD_NO_ROUTE, /* a target that is well formed and names nothing: longer than any path */
    GUARD_BAD_METHOD,
    GUARD_UNKNOWN_METHOD,
    GUARD_BAD_VERSION,
    GUARD_BAD_HEADER,
    GUARD_TOO_MANY_HEADERS,
    GUARD_HEADER_TOO_LARGE,
    GUARD_DUPLICATE_HEADER,
    GUARD_BAD_FRAMING,
    GUARD_BAD_TRANSFER_CODING,
    GUARD_BAD_HOST,
    GUARD_BAD_EXPECT,
    GUARD_N
};

struct guard_answer {
    int http_status;
    const char *code;
    const char *message;
};
const struct guard_answer *guard_answer(enum guard_fault fault);

/* The path of `raw` (up to '?'), decoded, into path[GUARD_PATH_MAX].  "*" stays "*". */
enum guard_fault guard_target(const char *raw, size_t n, char *path);
enum guard_fault guard_method(const char *method);
enum guard_fault guard_version(const char *version);

struct guard { /* zero before the first header */
    int n_headers, n_host, n_length, n_coding, n_expect;
    unsigned seen; /* bit per header that may come once */
    bool chunked;
    uint64_t length; /* of Content-Length; 0 without */
};

enum guard_fault guard_header(struct guard *g, const char *name, size_t n_name, const char *value,
                              size_t n_value);
enum guard_fault guard_finish(const struct guard *g, const char *version);

#endif
