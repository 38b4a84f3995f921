/* bench_kernels.h - the time of each op alone, and what share of the device's best it reaches.
 *
 *     inferd bench kernels [--device auto|cpu|cuda] [--device-index N] [--dtype bf16|f16]
 *            [--threads N] [--shape 8b|1b|70b/2|tiny] [--op NAME] [--format NAME|all]
 *            [--rows-max N] [--ranks N] [--json]
 *
 * Shares are of a copy and of a large product, measured in the same run; `times` is the vendor's
 * time by ours; see kernels/bench.h.
 *
 * Thread: main's. */
#ifndef SERVER_BENCH_KERNELS_H
#define SERVER_BENCH_KERNELS_H

int bench_kernels_main(int argc, char **argv);

#endif
