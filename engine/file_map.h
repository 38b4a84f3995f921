/* file_map.h - a regular file, mapped read-only and kept open.
 *
 * The descriptor stays, so that a device can read the same bytes without going through the
 * mapping.  Nothing but a regular file of at least one byte is taken.
 *
 * Thread: immutable after open; any thread. */
#ifndef ENGINE_FILE_MAP_H
#define ENGINE_FILE_MAP_H

#include <stddef.h>

#include "base/status.h"

struct file_map {
    const char *bytes; /* NULL <=> not mapped */
    size_t n;
    int fd;
};

bool file_map_open(struct file_map *f, const char *path, struct status *st) MUST_CHECK;
void file_map_close(struct file_map *f); /* accepts one whose open failed */
void file_map_release(const struct file_map *f); /* madvise: its pages may go */

#endif
