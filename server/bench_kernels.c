#include "server/bench_kernels.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/bench.h"

struct report {
    bool json;
    double copy_bytes_s, matmul_flops; /* 0 = unknown */
    int n_rows;
};

static void begin(void *ctx, const char *variant, double copy_bytes_s, double matmul_flops)
{
    struct report *r = ctx;
    r->copy_bytes_s = copy_bytes_s;
    r->matmul_flops = matmul_flops;
    if (r->json)
        printf("{\"device\":\"%s\",\"copy_gb_per_s\":%.1f,\"matmul_tflops\":%.2f,\"times\":[",
               variant, copy_bytes_s / 1e9, matmul_flops / 1e12);
    else
        printf("%s: copy %.1f GB/s, product %.2f TFLOP/s\n%-5s %-8s %6s %8s %11s %9s %6s %9s %6s\n",
               variant, copy_bytes_s / 1e9, matmul_flops / 1e12, "shape", "op", "rows", "context",
               "us", "GB/s", "% copy", "TFLOP/s", "% best");
}

static double share(double part, double whole)
{
    return whole > 0 ? 100 * part / whole : 0;
}

static void put_time(void *ctx, const struct kernel_time *t)
{
    struct report *r = ctx;
    const double bytes_s = t->bytes / t->us * 1e6, flops = t->flops / t->us * 1e6;
    if (r->json)
        printf("%s{\"shape\":\"%s\",\"op\":\"%s\",\"rows\":%d,\"context\":%d,\"us\":%.3f,"
               "\"gb_per_s\":%.1f,\"tflops\":%.3f}",
               r->n_rows ? "," : "", t->shape, t->op, t->rows, t->context, t->us, bytes_s / 1e9,
               flops / 1e12);
    else
        printf("%-5s %-8s %6d %8d %11.2f %9.1f %6.1f %9.2f %6.1f\n", t->shape, t->op, t->rows,
               t->context, t->us, bytes_s / 1e9, share(bytes_s, r->copy_bytes_s), flops / 1e12,
               share(flops, r->matmul_flops));
    fflush(stdout);
    r->n_rows++;
}

static bool set_number(const char *name, const char *text, int *out, struct status *st)
{
    char *end;
    const long v = strtol(text, &end, 10);
    if (end == text || *end || v < 0 || v > 65536)
        return status_fail(st, STATUS_BAD_INPUT, "%s: \"%.60s\" is not a number from 0 to 65536",
                           name, text);
    *out = (int)v;
    return true;
}

static bool set_dtype(struct kernel_bench *b, const char *text, struct status *st)
{
    b->options.act = strcmp(text, "f16") == 0 ? DT_F16 : DT_BF16;
    return b->options.act == DT_F16 || strcmp(text, "bf16") == 0 ||
           status_fail(st, STATUS_BAD_INPUT, "dtype: want bf16 or f16, found %.32s", text);
}

static bool read_options(struct kernel_bench *b, struct report *r, int argc, char **argv,
                         struct status *st)
{
    static const struct option names[] = {
        {"device", required_argument, NULL, 'd'}, {"device-index", required_argument, NULL, 'i'},
        {"dtype", required_argument, NULL, 'a'},  {"threads", required_argument, NULL, 't'},
        {"shape", required_argument, NULL, 's'},  {"rows-max", required_argument, NULL, 'r'},
        {"json", no_argument, NULL, 'j'},         {0},
    };
    bool ok = true;
    optind = 1;
    for (int c; ok && (c = getopt_long(argc, argv, "", names, NULL)) != -1;) {
        if (c == 'd')
            b->device = optarg;
        else if (c == 'i')
            ok = set_number("device-index", optarg, &b->options.index, st);
        else if (c == 'a')
            ok = set_dtype(b, optarg, st);
        else if (c == 't')
            ok = set_number("threads", optarg, &b->options.n_threads, st);
        else if (c == 's')
            b->shape = optarg;
        else if (c == 'r')
            ok = set_number("rows-max", optarg, &b->rows_max, st);
        else if (c == 'j')
            r->json = true;
        else
            ok = status_fail(st, STATUS_BAD_INPUT, "see `inferd bench`");
    }
    return ok &&
           (optind == argc ||
            status_fail(st, STATUS_BAD_INPUT, "want --name value, found \"%.60s\"", argv[optind]));
}

int bench_kernels_main(int argc, char **argv)
{
    struct kernel_bench b = {.device = "auto", .options = {.act = DT_BF16, .memory_share = 1}};
    struct report r = {0};
    const struct kernel_sink sink = {begin, put_time, &r};
    struct status st = {0};
    int code = 0;
    if (!read_options(&b, &r, argc + 1, argv - 1, &st))
        code = 2;
    else if (!kernel_bench_run(&b, &sink, &st))
        code = 1;
    else if (r.json)
        puts("]}");
    if (code)
        fprintf(stderr, "inferd: bench kernels: %s\n", st.msg);
    return code;
}
