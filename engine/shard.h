/* shard.h - what one rank of several holds of a model.
 *
 * The families' tables say which weights ranks divide, and along which axis (enum shard).  Attention
 * is divided by heads, the feed-forward by its inner width, embedding table and head by tokens.  A
 * key head that fewer than N have is held by each rank that has query heads of it.
 *
 * shard_model() turns a bound checkpoint into a rank's: its configuration has the rank's heads and
 * widths, its weights are the rank's rows or columns, and from there on plan, load and forward
 * treat it as a smaller model.  Nothing is read or copied: a weight is cut where it lies, or, of a
 * scheme, where its rows are made (shard_scheme.h).
 *
 * Thread: one, at start. */
#ifndef ENGINE_SHARD_H
#define ENGINE_SHARD_H

#include "base/status.h"
#include "engine/model.h"

/* f becomes rank `rank` of `n_ranks`; with n_ranks <= 1 it stays as it is.  UNSUPPORTED, with the
 * numbers, when heads, blocks or tokens do not divide so. */
bool shard_model(struct model_file *f, int rank, int n_ranks, struct status *st) MUST_CHECK;

#endif
