/* follow.h - `inferd serve` as one rank of several that are processes, but for the first.
 *
 * It serves nothing: it keeps an engine process that follows rank 0's, and starts it again when the
 * group fails, as rank 0 does.  It ends when the group ends, and after a signal no later than a
 * drain of rank 0 may take, or soon where there is no group.
 *
 * Thread: main's. */
#ifndef SERVER_FOLLOW_H
#define SERVER_FOLLOW_H

struct config;

/* The exit code: 0 when the group ended, 1 when this rank could not follow. */
int follow_run(const struct config *c);

#endif
