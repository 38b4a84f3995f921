/* api_call.h - the life of one completion or chat call, from body to last byte.
 *
 *     api_call_open ── prep: read, render, encode ──> submit ──> news ... ──> answer
 *
 * A call makes one scheduler request for each choice of each prompt, and owns all their
 * memory.  It is freed when its exchange has its answer (or its client left) and every
 * request it submitted is finished, whichever is last.  If the client leaves, or one
 * choice fails, the other requests are cancelled.
 *
 * A stream begins with the first token, not before: what goes wrong until then still
 * gets its own HTTP status.  It ends with [DONE], or with one error event and no [DONE].
 *
 * Choice c of a prompt samples with seed + c, so choice 0 is what n = 1 would give, and a
 * prompt among several gives what it would give alone.
 *
 * Thread: the loop thread, but for the prep work inside. */
#ifndef SERVER_API_CALL_H
#define SERVER_API_CALL_H

#include "server/api_params.h"
#include "server/http.h"
#include "server/server.h"

void api_call_open(struct exchange *x, struct server *sv, enum api_kind kind);

#endif
