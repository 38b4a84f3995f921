/* memory.h - how much memory this process may still take.
 *
 * Thread: any. */
#ifndef BASE_MEMORY_H
#define BASE_MEMORY_H

#include <stdint.h>

/* The least of what the machine has and what each control group above the process (versions 1 and
 * 2) leaves.  Files in the page cache count as free.  `root` is "" but in tests.  UINT64_MAX when
 * nothing can be read. */
uint64_t memory_available_bytes(const char *root);

#endif
