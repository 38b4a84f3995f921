/* store_place.h - a folder that is there whole or not at all.
 *
 * It is made beside its final place, under a name that begins with a point, and gets its own name
 * when everything in it is on disk.  A process that is killed without warning leaves the unfinished
 * one.
 *
 * Thread: one. */
#ifndef ENGINE_STORE_PLACE_H
#define ENGINE_STORE_PLACE_H

#include "base/status.h"
#include "engine/json_file.h"

struct store_place {
    char path[PATH_BYTES_MAX]; /* final */
    char made[PATH_BYTES_MAX]; /* until moved; "" = nothing to remove */
    int fd;                    /* of the folder; -1 = not made */
};

/* BAD_INPUT when something is there. */
bool store_place_check(const char *path, struct status *st) MUST_CHECK;
bool store_place_make(struct store_place *p, const char *path, struct status *st) MUST_CHECK;
bool store_place_move(struct store_place *p, struct status *st) MUST_CHECK;
/* Removes what was not moved.  Accepts one whose fd is -1. */
void store_place_close(struct store_place *p);

#endif
