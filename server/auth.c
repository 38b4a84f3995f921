#include "server/auth.h"

#include <nettle/sha2.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "server/private_file.h"

enum { KEYS_MAX = 4096, KEY_BYTES_MAX = 512 };

struct digest {
    uint8_t at[SHA256_DIGEST_SIZE];
};

struct auth {
    char *path;         /* NULL: no keys are asked for */
    struct digest *key; /* [n_keys] */
    int n_keys;
    struct hash_key boot; /* trust domains differ from run to run */
};

static void digest_of(const char *s, size_t n, struct digest *d)
{
    struct sha256_ctx ctx;
    sha256_init(&ctx);
    sha256_update(&ctx, n, (const uint8_t *)s);
    sha256_digest(&ctx, sizeof d->at, d->at);
}

static bool add_line(struct digest *key, int *n_keys, int line, char *s, size_t n,
                     struct status *st)
{
    while (n > 0 && (s[n - 1] == ' ' || s[n - 1] == '\t' || s[n - 1] == '\r'))
        n--;
    while (n > 0 && (*s == ' ' || *s == '\t'))
        s++, n--;
    if (n == 0 || *s == '#')
        return true;
    if (n > KEY_BYTES_MAX || *n_keys == KEYS_MAX)
        return status_fail(st, STATUS_TOO_LARGE, "line %d: at most %d keys of %d bytes", line,
                           KEYS_MAX, KEY_BYTES_MAX);
    for (size_t i = 0; i < n; i++)
        if (s[i] <= ' ' || s[i] > '~')
            return status_fail(st, STATUS_BAD_INPUT,
                               "line %d: a key is visible ASCII without spaces", line);
    digest_of(s, n, &key[(*n_keys)++]);
    return true;
}

static bool load_keys(const char *path, struct digest **out, int *n_out, struct status *st)
{
    size_t n = 0;
    struct digest *key = NULL;
    int n_keys = 0, line = 0;
    char *text = private_file_read(path, &n, st);
    if (!text)
        goto fail;
    key = calloc(KEYS_MAX, sizeof *key);
    if (!key) {
        status_fail(st, STATUS_BUSY, "no memory for keys");
        goto fail;
    }
    for (size_t first = 0; first < n;) {
        char *end = memchr(text + first, '\n', n - first);
        size_t len = end ? (size_t)(end - text) - first : n - first;
        if (!add_line(key, &n_keys, ++line, text + first, len, st))
            goto fail;
        first += len + 1;
    }
    if (n_keys == 0) {
        status_fail(st, STATUS_BAD_INPUT,
                    "it has no key; to serve without keys, leave out "
                    "--api-key-file");
        goto fail;
    }
    explicit_bzero(text, n);
    free(text);
    *out = key;
    *n_out = n_keys;
    return true;
fail:
    if (text)
        explicit_bzero(text, n);
    free(text);
    free(key);
    return status_wrap(st, "key file \"%s\"", path);
}

struct auth *auth_open(const char *path, struct status *st)
{
    struct auth *a = calloc(1, sizeof *a);
    if (!a || !hash_key_random(&a->boot)) {
        status_fail(st, STATUS_IO, "no memory or no random bytes for keys");
        goto fail;
    }
    if (path && path[0]) {
        a->path = strdup(path);
        if (!a->path || !load_keys(path, &a->key, &a->n_keys, st)) {
            if (st->code == STATUS_OK)
                status_fail(st, STATUS_BUSY, "no memory for keys");
            goto fail;
        }
    }
    return a;
fail:
    auth_close(a);
    return NULL;
}

bool auth_reload(struct auth *a, struct status *st)
{
    struct digest *key;
    int n_keys;
    if (!a->path)
        return true;
    if (!load_keys(a->path, &key, &n_keys, st))
        return false;
    free(a->key);
    a->key = key;
    a->n_keys = n_keys;
    return true;
}

void auth_close(struct auth *a)
{
    if (!a)
        return;
    free(a->key);
    free(a->path);
    free(a);
}

bool auth_has_keys(const struct auth *a)
{
    return a->path != NULL;
}

bool auth_check(const struct auth *a, const char *authorization, struct hash128 *domain)
{
    *domain = siphash128(&a->boot, "", 0);
    if (!a->path)
        return true;
    if (!authorization || strncasecmp(authorization, "Bearer ", 7) != 0)
        return false;
    const char *key = authorization + 7;
    while (*key == ' ')
        key++;
    struct digest d;
    digest_of(key, strlen(key), &d);
    unsigned any = 0;
    for (int i = 0; i < a->n_keys; i++) { /* every key, every byte: time tells nothing */
        unsigned diff = 0;
        for (size_t b = 0; b < sizeof d.at; b++)
            diff |= (unsigned)(d.at[b] ^ a->key[i].at[b]);
        any |= (diff - 1u) >> 31;
    }
    *domain = siphash128(&a->boot, d.at, sizeof d.at);
    return any != 0;
}
