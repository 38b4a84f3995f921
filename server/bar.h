/* bar.h - how far something is, as a line of text: for terminals.
 *
 * Thread: any; pure. */
#ifndef SERVER_BAR_H
#define SERVER_BAR_H

#include <stdint.h>

enum { BAR_BYTES = 96 };

/* "[####....]  50%  200 of 400 MiB"; returns the percents.  n_total is above 0. */
int bar_text(char text[BAR_BYTES], uint64_t n_done, uint64_t n_total);

#endif
