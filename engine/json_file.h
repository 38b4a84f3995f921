/* json_file.h - the JSON that comes with a checkpoint: scanned, then parsed, within limits.
 *
 * What json_scan refuses never reaches the parser.  Objects may be large here (a vocabulary);
 * whoever walks one looks for duplicate keys itself.
 *
 * Thread: any; no state. */
#ifndef ENGINE_JSON_FILE_H
#define ENGINE_JSON_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "base/str.h"

struct cJSON; /* freed with cJSON_Delete */

enum { PATH_BYTES_MAX = 4096 };

/* folder/name.  False with st when it is too long. */
bool path_join(char path[PATH_BYTES_MAX], const char *folder, const char *name,
               struct status *st) MUST_CHECK;

/* NULL with st; `text` is an object or it is refused. */
struct cJSON *json_text_parse(struct str text, struct status *st) MUST_CHECK;

/* NULL with st untouched when there is no such file; NULL with st when it cannot be read, passes
 * bytes_max or is not an object. */
struct cJSON *json_file_read(const char *folder, const char *name, size_t bytes_max,
                             struct status *st) MUST_CHECK;

/* The value of `key`; NULL when it is missing or null. */
const struct cJSON *json_value(const struct cJSON *object, const char *key);
/* True when *out is the text of `key`; false otherwise, with st untouched only if it is missing
 * or null. */
bool json_text(const struct cJSON *object, const char *key, struct str *out, struct status *st);
/* *out = true or false; `absent` when it is missing or null.  False with st for another type. */
bool json_flag(const struct cJSON *object, const char *key, bool absent, bool *out,
               struct status *st) MUST_CHECK;
/* A whole number of at least 0 that a double holds exactly? */
bool json_is_count(const struct cJSON *v, uint64_t *out);

#endif
