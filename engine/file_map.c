#include "engine/file_map.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* O_NONBLOCK: opening a FIFO must not wait for its writer. */
bool file_map_open(struct file_map *f, const char *path, struct status *st)
{
    struct stat info;
    *f = (struct file_map){.fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
    if (f->fd < 0 || fstat(f->fd, &info) != 0) {
        status_fail(st, STATUS_IO, "%s", strerror(errno));
    } else if (!S_ISREG(info.st_mode)) {
        status_fail(st, STATUS_BAD_INPUT, "not a regular file");
    } else if (info.st_size <= 0) {
        status_fail(st, STATUS_CORRUPT, "want content, found an empty file");
    } else {
        void *map = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, f->fd, 0);
        if (map != MAP_FAILED) {
            f->bytes = map;
            f->n = (size_t)info.st_size;
            return true;
        }
        status_fail(st, STATUS_IO, "map %zu bytes: %s", (size_t)info.st_size, strerror(errno));
    }
    file_map_close(f);
    return false;
}

void file_map_close(struct file_map *f)
{
    if (f->bytes)
        munmap((void *)(uintptr_t)f->bytes, f->n);
    if (f->fd >= 0)
        close(f->fd);
    *f = (struct file_map){.fd = -1};
}

void file_map_release(const struct file_map *f)
{
    if (f->bytes)
        madvise((void *)(uintptr_t)f->bytes, f->n, MADV_DONTNEED);
}
