/* bench_engine.c - tokens per second of the engine alone: no server, no scheduler.
 *
 *     bench_engine --model PATH [--threads N] [--precision fast|exact] [--isa NAME] [--repeat N]
 *
 * One line each for load, prefill of 512 tokens, decode of 128 tokens after it at batch 1, and
 * decode at batch 16 after 64 tokens each, by the wall and by the processor time of all threads:
 * on a machine shared with others only the second, with one thread, says much.  The best of the
 * repeats counts. */
#include <getopt.h>
#include <time.h>

#include "base/clock.h"
#include "tests/unit/engine/drive.h"

enum { PREFILL = 512, DECODE = 128, BATCH = 16, BATCH_PROMPT = 64, BATCH_DECODE = 32 };

static void fill_ids(const struct drive *d, int32_t *ids, int n, uint32_t seed)
{
    for (int i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        ids[i] = (int32_t)((seed >> 8) % (uint32_t)d->limits.vocab);
    }
}

struct cost {
    double wall_s, cpu_s;
};

static double cpu_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static struct cost cost_of_step(struct drive *d)
{
    const double cpu = cpu_now();
    const uint64_t wall = clock_now(&clock_real);
    drive_run(d);
    return (struct cost){(double)(clock_now(&clock_real) - wall) / 1e9, cpu_now() - cpu};
}

static struct cost prefill(struct drive *d, struct drive_seq *seq, int32_t slot, int n)
{
    int32_t ids[PREFILL];
    fill_ids(d, ids, n, 1 + (uint32_t)slot);
    drive_begin(d);
    *seq = drive_set(d, slot, drive_greedy(-1), n);
    drive_row(d, seq, ROW_SAMPLE, ids, n);
    return cost_of_step(d);
}

static struct cost decode(struct drive *d, struct drive_seq *seq, int n_seqs, int n)
{
    struct cost sum = {0};
    for (int i = 0; i < n; i++) {
        drive_begin(d);
        for (int j = 0; j < n_seqs; j++)
            drive_row(d, &seq[j], ROW_SAMPLE, NULL, 1);
        const struct cost one = cost_of_step(d);
        sum.wall_s += one.wall_s;
        sum.cpu_s += one.cpu_s;
    }
    return sum;
}

static void keep_least(struct cost *best, struct cost c)
{
    if (best->wall_s == 0 || c.wall_s < best->wall_s)
        best->wall_s = c.wall_s;
    if (best->cpu_s == 0 || c.cpu_s < best->cpu_s)
        best->cpu_s = c.cpu_s;
}

static void print(const char *what, int n_tokens, int batch, struct cost c)
{
    const double n = (double)n_tokens * batch;
    printf("%-8s %4d tokens x %2d %9.1f tokens/s %9.1f tokens/cpu-s\n", what, n_tokens, batch,
           n / c.wall_s, n / c.cpu_s);
}

static void run(struct drive *d, int repeat)
{
    struct cost best_prefill = {0}, best_one = {0}, best_batch = {0};
    for (int i = 0; i < repeat; i++) {
        struct drive_seq seq[BATCH];
        keep_least(&best_prefill, prefill(d, &seq[0], 0, PREFILL));
        keep_least(&best_one, decode(d, seq, 1, DECODE));
        for (int j = 0; j < BATCH; j++)
            prefill(d, &seq[j], j, BATCH_PROMPT);
        keep_least(&best_batch, decode(d, seq, BATCH, BATCH_DECODE));
    }
    print("prefill", PREFILL, 1, best_prefill);
    print("decode", DECODE, 1, best_one);
    print("decode", BATCH_DECODE, BATCH, best_batch);
}

int main(int argc, char **argv)
{
    static const struct option names[] = {
        {"model", required_argument, NULL, 'm'},     {"threads", required_argument, NULL, 't'},
        {"precision", required_argument, NULL, 'p'}, {"isa", required_argument, NULL, 'i'},
        {"repeat", required_argument, NULL, 'r'},    {0},
    };
    struct engine_options o = {.cpu_precision = "fast",
                               .seqs_max = BATCH,
                               .block_tokens = 16,
                               .step_tokens_max = PREFILL,
                               .context_max = PREFILL + DECODE};
    long repeat = 3;
    for (int c; (c = getopt_long(argc, argv, "", names, NULL)) != -1;) {
        switch (c) {
        case 'm':
            o.model_path = optarg;
            break;
        case 't':
            o.n_threads = (int32_t)strtol(optarg, NULL, 10);
            break;
        case 'p':
            o.cpu_precision = optarg;
            break;
        case 'i':
            o.cpu_isa = optarg;
            break;
        case 'r':
            repeat = strtol(optarg, NULL, 10);
            break;
        default:
            return 2;
        }
    }
    if (!o.model_path || repeat < 1) {
        fprintf(stderr, "bench_engine: want --model PATH and --repeat of at least 1\n");
        return 2;
    }
    struct drive d;
    drive_open(&d, &o);
    const struct engine_facts *facts = ranks_facts(d.ranks);
    printf("load     %llu ms, %.1f MiB of weights, %s, %s, kv %s\n",
           (unsigned long long)facts->load_ms, (double)facts->weight_bytes / (1 << 20), facts->isa,
           o.cpu_precision, facts->kv_dtype);
    run(&d, (int)repeat);
    drive_close(&d);
    return 0;
}
