#include "server/bench_kernels.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "kernels/bench.h"

struct report {
    bool json;
    struct kernel_facts facts;
    struct buf skipped; /* JSON, or a line each */
    bool has_begun;
    int n_rows, n_skipped;
};

static void put_text(const char *text) /* as a JSON string */
{
    struct buf b;
    buf_init(&b, 4096);
    buf_put_json(&b, text, strlen(text));
    printf("\"%s\"", b.at ? b.at : "");
    buf_close(&b);
}

static void begin(void *ctx, const struct kernel_facts *f)
{
    struct report *r = ctx;
    r->facts = *f;
    r->facts.variant = r->facts.no_vendor = NULL; /* gone when this returns */
    r->has_begun = true;
    if (r->json) {
        printf("{\"device\":");
        put_text(f->variant);
        printf(",\"copy_gb_per_s\":%.1f,\"matmul_tflops\":%.2f,\"vendor\":", f->copy_bytes_s / 1e9,
               f->matmul_flops / 1e12);
        put_text(f->vendor ? f->vendor : "");
        printf(",\"no_vendor\":");
        put_text(f->vendor ? "" : f->no_vendor);
        printf(",\"times\":[");
        return;
    }
    printf("%s: copy %.1f GB/s, product %.2f TFLOP/s\n", f->variant, f->copy_bytes_s / 1e9,
           f->matmul_flops / 1e12);
    if (!f->vendor)
        printf("no product of the vendor's library beside ours: %s\n", f->no_vendor);
    printf("%-5s %-17s %-16s %5s %7s %11s %8s %6s %8s %6s %11s %6s\n", "shape", "op", "format",
           "rows", "context", "us", "GB/s", "% copy", "TFLOP/s", "% best",
           f->vendor ? f->vendor : "vendor", "times");
}

static double share(double part, double whole)
{
    return whole > 0 ? 100 * part / whole : 0;
}

/* A number, or what stands for none. */
static void put_number(char *to, size_t n, int digits, double v, const char *none)
{
    if (v > 0)
        snprintf(to, n, "%.*f", digits, v);
    else
        snprintf(to, n, "%s", none);
}

static void put_time(void *ctx, const struct kernel_time *t)
{
    struct report *r = ctx;
    const struct kernel_facts *f = &r->facts;
    const double bytes_s = t->bytes / t->us * 1e6, flops = t->flops / t->us * 1e6;
    const double copy = share(bytes_s, f->copy_bytes_s), best = share(flops, f->matmul_flops);
    const char *none = r->json ? "null" : "-";
    char vendor[32], times[32];
    put_number(vendor, sizeof vendor, r->json ? 3 : 2, t->vendor_us, none);
    put_number(times, sizeof times, 2, t->vendor_us / t->us, none);
    if (r->json)
        printf("%s{\"shape\":\"%s\",\"op\":\"%s\",\"format\":\"%s\",\"rows\":%d,\"context\":%d,"
               "\"us\":%.3f,\"gb_per_s\":%.3f,\"copy_percent\":%.1f,\"tflops\":%.3f,"
               "\"matmul_percent\":%.1f,\"vendor_us\":%s,\"times_vendor\":%s}",
               r->n_rows ? "," : "", t->shape, t->op, t->format, t->rows, t->context, t->us,
               bytes_s / 1e9, copy, flops / 1e12, best, vendor, times);
    else
        printf("%-5s %-17s %-16s %5d %7d %11.2f %8.1f %6.1f %8.2f %6.1f %11s %6s\n", t->shape,
               t->op, t->format, t->rows, t->context, t->us, bytes_s / 1e9, copy, flops / 1e12,
               best, vendor, times);
    fflush(stdout);
    r->n_rows++;
}

static void note_skip(void *ctx, const char *shape, const char *op, const char *format,
                      const char *why)
{
    struct report *r = ctx;
    if (r->json) {
        buf_printf(&r->skipped, "%s{\"shape\":\"%s\",\"op\":\"%s\",\"format\":\"%s\",\"why\":\"",
                   r->n_skipped ? "," : "", shape, op, format);
        buf_put_json(&r->skipped, why, strlen(why));
        buf_put_str(&r->skipped, "\"}");
    } else {
        buf_printf(&r->skipped, "skipped: %s, %s of %s: %s\n", shape, op, format, why);
    }
    r->n_skipped++;
}

static void end(const struct report *r)
{
    const char *skipped = r->skipped.at ? r->skipped.at : "";
    if (r->json)
        printf("],\"skipped\":[%s]}\n", skipped);
    else
        fputs(skipped, stdout);
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
           status_fail(st, STATUS_BAD_INPUT, "dtype: want bf16 or f16, found %.32s%s", text,
                       strcmp(text, "f32") == 0 ? "; f32 runs in bench engine alone" : "");
}

static bool read_options(struct kernel_bench *b, struct report *r, int argc, char **argv,
                         struct status *st)
{
    static const struct option names[] = {
        {"device", required_argument, NULL, 'd'},
        {"device-index", required_argument, NULL, 'i'},
        {"dtype", required_argument, NULL, 'a'},
        {"threads", required_argument, NULL, 't'},
        {"shape", required_argument, NULL, 's'},
        {"rows-max", required_argument, NULL, 'r'},
        {"op", required_argument, NULL, 'o'},
        {"format", required_argument, NULL, 'f'},
        {"ranks", required_argument, NULL, 'n'},
        {"json", no_argument, NULL, 'j'},
        {0},
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
        else if (c == 'o')
            b->op = optarg;
        else if (c == 'f')
            b->format = optarg;
        else if (c == 'n')
            ok = set_number("ranks", optarg, &b->n_ranks, st);
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
    const struct kernel_sink sink = {begin, put_time, note_skip, &r};
    struct status st = {0};
    int code = 0;
    buf_init(&r.skipped, 65536);
    if (!read_options(&b, &r, argc + 1, argv - 1, &st))
        code = 2;
    else if (!kernel_bench_run(&b, &sink, &st))
        code = st.code == STATUS_BAD_INPUT && !r.has_begun ? 2 : 1;
    if (r.has_begun)
        end(&r);
    if (code)
        fprintf(stderr, "inferd: bench kernels: %s\n", st.msg);
    buf_close(&r.skipped);
    return code;
}
