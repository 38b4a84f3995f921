/* async.h - what runs beside the threads of a block: copies, their barriers, and wgmma.
 *
 * A copy ends at any time between its start and the moment that somebody who waits for it could not
 * go on otherwise; some blocks are eager, some put everything off, some draw (block.h: pace).
 *
 * Thread: the block's. */
#ifndef TESTS_CUDASIM_ASYNC_H
#define TESTS_CUDASIM_ASYNC_H

#include <stdint.h>

#include "tests/cudasim/block.h"

namespace sim
{

/* ---- copies that a thread waits for itself ---- */

void defer(deferred *, std::function<void()> op);
void defer_commit(deferred *);
/* All but the last n groups are done. */
void defer_wait(deferred *, size_t n);
/* All of the thread's, also those that nobody committed. */
void thread_flush(thread *);

/* ---- mbarriers, of a block by its address ---- */

void mbarrier_begin(block *, uint32_t at, uint32_t n_arrivals);
void mbarrier_come(block *, uint32_t at);
/* More, or with a minus fewer, bytes that the phase waits for. */
void mbarrier_bytes(block *, uint32_t at, int64_t n);
bool mbarrier_has_passed(block *, uint32_t at, uint32_t parity);
/* Until it moves on. */
void mbarrier_sleep(block *, uint32_t at);

/* ---- wgmma (wgmma.cc) ---- */

void wgmma_begin(block *);
void wgmma_check_end(const block *);

} // namespace sim

#endif
