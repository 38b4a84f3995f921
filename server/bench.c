/* bench.c - which of the benchmarks? */
#include "server/bench.h"

#include <stdio.h>
#include <string.h>

#include "server/bench_engine.h"
#include "server/bench_http.h"
#include "server/bench_kernels.h"

int bench_main(int argc, char **argv)
{
    if (argc > 0 && strcmp(argv[0], "engine") == 0)
        return bench_engine_main(argc - 1, argv + 1);
    if (argc > 0 && strcmp(argv[0], "http") == 0)
        return bench_http_main(argc - 1, argv + 1);
    if (argc > 0 && strcmp(argv[0], "kernels") == 0)
        return bench_kernels_main(argc - 1, argv + 1);
    fprintf(stderr, "inferd: bench what?\n"
                    "  inferd bench engine MODEL [--random] [--repeats N] [--parallel-max N]\n"
                    "        [--tables auto|full|few|none] [--prefill TOKENS,...] "
                    "[--decode BATCHxTOKENS,...]\n"
                    "        [--json] [options of serve]\n"
                    "  inferd bench kernels [--device auto|cpu|cuda] [--device-index N] "
                    "[--dtype bf16|f16]\n"
                    "        [--threads N] [--shape 8b|1b|70b/2|tiny] [--op NAME] "
                    "[--format NAME|all]\n"
                    "        [--rows-max N] [--ranks N] [--json]\n"
                    "  inferd bench http --url http://127.0.0.1:PORT [--concurrency N] "
                    "[--requests N]\n"
                    "        [--rate PER_SECOND|inf] [--max-tokens N] [--prompt-tokens N]\n"
                    "        [--lengths fixed|sharegpt] [--seed N] [--stalled N] [--time-s N]\n"
                    "        [--model NAME] [--json]\n");
    return 2;
}
