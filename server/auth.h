/* auth.h - which keys may use the daemon, and whose cache a request may share.
 *
 * Keys come from a file, one a line, `#` comments; only their SHA-256 digests are kept.  A check
 * compares with every key in constant time.  The trust domain of a key is a keyed hash
 * of its digest, so that prefix-cache hits never cross keys; without keys all requests share
 * one domain.
 *
 * Thread: the loop thread. */
#ifndef SERVER_AUTH_H
#define SERVER_AUTH_H

#include "base/hash.h"
#include "base/status.h"

struct auth;

/* path NULL or "": no keys, every request passes.  A file that is empty, unreadable, or
 * readable by group or others is refused: an empty file never means "no keys". */
struct auth *auth_open(const char *path, struct status *st) MUST_CHECK;
/* Reads the file again.  On failure the keys stay as they were. */
bool auth_reload(struct auth *a, struct status *st) MUST_CHECK;
void auth_close(struct auth *a);
bool auth_has_keys(const struct auth *a);
/* `authorization` is the header's value, or NULL. */
bool auth_check(const struct auth *a, const char *authorization, struct hash128 *domain);

#endif
