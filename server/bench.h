/* bench.h - `inferd bench engine`, `kernels` and `http`: the figures behind docs/performance.md.
 *
 * Thread: main's. */
#ifndef SERVER_BENCH_H
#define SERVER_BENCH_H

/* argv are the arguments after "bench".  The exit code: 0 when all was measured, 1 when something
 * failed meanwhile, 2 for options. */
int bench_main(int argc, char **argv);

#endif
