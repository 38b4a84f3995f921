/* private_file.h - a file with a secret: read if nobody else can.
 *
 * Thread: any. */
#ifndef SERVER_PRIVATE_FILE_H
#define SERVER_PRIVATE_FILE_H

#include <stddef.h>

#include "base/status.h"

/* Its *n bytes, below 1 MiB; free's.  NULL: BAD_INPUT when it is no file or its mode lets others at
 * it, IO when it cannot be read. */
char *private_file_read(const char *path, size_t *n, struct status *st) MUST_CHECK;

#endif
