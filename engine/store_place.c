/* store_place.c - a temporary sibling, and the rename. */
#include "engine/store_place.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

bool store_place_check(const char *path, struct status *st)
{
    struct stat info;
    if (lstat(path, &info) == 0)
        return status_fail(st, STATUS_BAD_INPUT, "%.150s: is there already", path);
    return errno == ENOENT || status_fail(st, STATUS_IO, "%.150s: %s", path, strerror(errno));
}

/* Without the slashes at its end. */
static bool own_path(struct store_place *p, const char *path, struct status *st)
{
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    if (n == 0 || n >= PATH_BYTES_MAX)
        return status_fail(st, STATUS_BAD_INPUT, "want a path of 1 to %d bytes, found %zu",
                           PATH_BYTES_MAX - 1, n);
    memcpy(p->path, path, n);
    p->path[n] = '\0';
    return true;
}

/* Bytes of the path up to and with the last slash. */
static int parent_bytes(const struct store_place *p)
{
    const char *slash = strrchr(p->path, '/');
    return slash ? (int)(slash - p->path) + 1 : 0;
}

static mode_t ordinary_mode(void)
{
    const mode_t mask = umask(0);
    umask(mask);
    return 0777 & ~mask;
}

bool store_place_make(struct store_place *p, const char *path, struct status *st)
{
    *p = (struct store_place){.fd = -1};
    if (!own_path(p, path, st))
        return false;
    const int n_parent = parent_bytes(p);
    char template[PATH_BYTES_MAX];
    const int n = snprintf(template, sizeof template, "%.*s.%s.unfinished-XXXXXX", n_parent,
                           p->path, p->path + n_parent);
    if (n >= PATH_BYTES_MAX)
        return status_fail(st, STATUS_BAD_INPUT, "a path of %d bytes, limit %d", n,
                           PATH_BYTES_MAX - 1);
    if (!mkdtemp(template))
        return status_fail(st, STATUS_IO, "%.150s: %s", template, strerror(errno));
    memcpy(p->made, template, sizeof template);
    p->fd = open(p->made, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (p->fd < 0 || fchmod(p->fd, ordinary_mode()) != 0)
        return status_fail(st, STATUS_IO, "%.150s: %s", p->made, strerror(errno));
    return true;
}

static bool sync_parent(const struct store_place *p)
{
    char parent[PATH_BYTES_MAX];
    const int n = parent_bytes(p);
    snprintf(parent, sizeof parent, "%.*s", n ? n : 1, n ? p->path : ".");
    const int fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    const bool ok = fd >= 0 && fsync(fd) == 0;
    if (fd >= 0)
        close(fd);
    return ok;
}

bool store_place_move(struct store_place *p, struct status *st)
{
    if (fsync(p->fd) != 0 || renameat2(AT_FDCWD, p->made, AT_FDCWD, p->path, RENAME_NOREPLACE) != 0)
        return status_fail(st, STATUS_IO, "%.150s: %s", p->path, strerror(errno));
    p->made[0] = '\0';
    return sync_parent(p) || status_fail(st, STATUS_IO, "%.150s: %s", p->path, strerror(errno));
}

/* It has files alone. */
static void remove_made(const struct store_place *p)
{
    DIR *dir = opendir(p->made);
    for (struct dirent *e; dir && (e = readdir(dir));)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            unlinkat(p->fd, e->d_name, 0);
    if (dir)
        closedir(dir);
    rmdir(p->made);
}

void store_place_close(struct store_place *p)
{
    if (p->fd < 0)
        return;
    if (p->made[0])
        remove_made(p);
    close(p->fd);
    p->fd = -1;
}
