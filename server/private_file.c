/* private_file.c - mode, kind and size, and then the bytes. */
#include "server/private_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FILE_BYTES_MAX = 1 << 20 };

/* Bits that such a file may not have.  One that root owns may be read by a group: that is how a
 * daemon of another user gets a file that it cannot change, from a package or a Kubernetes secret.
 */
static mode_t forbidden_bits(const struct stat *s)
{
    return S_IRWXO | (s->st_uid == 0 ? S_IWGRP | S_IXGRP : S_IRWXG);
}

char *private_file_read(const char *path, size_t *n, struct status *st)
{
    char *text = NULL;
    struct stat s;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* opening a pipe would wait */
    if (fd < 0 || fstat(fd, &s) != 0) {
        status_fail(st, STATUS_IO, "cannot read it: %s", strerror(errno));
        st->sys = errno;
        goto done;
    }
    if (!S_ISREG(s.st_mode)) {
        status_fail(st, STATUS_BAD_INPUT, "not a regular file");
        goto done;
    }
    if (s.st_mode & forbidden_bits(&s)) {
        status_fail(st, STATUS_BAD_INPUT,
                    "mode %04o lets others at it; want 0600 or 0400, or 0640 for a file of "
                    "root's",
                    (unsigned)(s.st_mode & 07777));
        goto done;
    }
    text = malloc(FILE_BYTES_MAX + 1);
    ssize_t got = 0;
    *n = 0;
    while (text && *n < FILE_BYTES_MAX && (got = read(fd, text + *n, FILE_BYTES_MAX - *n)) > 0)
        *n += (size_t)got;
    if (!text || got < 0 || *n == FILE_BYTES_MAX) {
        status_fail(st, STATUS_IO, "%s",
                    !text || got < 0 ? strerror(errno) : "it has 1 MiB or more");
        free(text);
        text = NULL;
    }
done:
    if (fd >= 0)
        close(fd);
    return text;
}
