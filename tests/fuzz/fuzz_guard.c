/* fuzz_guard.c - the guard over any bytes: the first line is a target, the others headers.
 *
 * What passes must hold what routes and handlers rely on: a path of UTF-8 without NUL or dot
 * segments, and one meaning of the body's length. */
#include <stdlib.h>
#include <string.h>

#include "base/json_scan.h"
#include "server/http_guard.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

static void check_path(const char *path)
{
    size_t n = strlen(path);
    if (n == 0 || !utf8_valid(path, n) || strstr(path, "/../"))
        abort();
    if (n >= 3 && strcmp(path + n - 3, "/..") == 0)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    char path[GUARD_PATH_MAX];
    struct guard g = {0};
    const char *text = (const char *)bytes, *end = text + n;
    const char *eol = n ? memchr(text, '\n', n) : NULL;
    if (guard_target(text, (size_t)((eol ? eol : end) - text), path) == GUARD_OK)
        check_path(path);
    enum guard_fault fault = GUARD_OK;
    while (eol && fault == GUARD_OK) {
        const char *name = eol + 1;
        eol = memchr(name, '\n', (size_t)(end - name));
        size_t len = (size_t)((eol ? eol : end) - name);
        const char *colon = memchr(name, ':', len);
        size_t n_name = colon ? (size_t)(colon - name) : len;
        fault =
            guard_header(&g, name, n_name, colon ? colon + 1 : "", colon ? len - n_name - 1 : 0);
    }
    if (fault == GUARD_OK && guard_finish(&g, "HTTP/1.1") == GUARD_OK &&
        (g.n_length > 1 || g.n_coding > 1 || (g.n_length && g.n_coding) || g.n_host != 1))
        abort();
    return 0;
}
