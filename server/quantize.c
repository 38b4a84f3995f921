/* quantize.c - flags, signals and progress of `inferd quantize`. */
#include "server/quantize.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/parallel.h"
#include "engine/store_folder.h"
#include "server/bar.h"

enum { SUMMARY_BYTES_MAX = 1 << 16, INTERRUPTED = 130 };

static const char usage[] =
    "inferd: quantize what?\n"
    "  inferd quantize IN OUT --scheme SCHEME [--head SCHEME|none] [--skip NAME[,NAME...]]\n"
    "        [--texts FOLDER] [--threads N]\n"
    "  IN: a folder, or a GGUF file with --texts: config.json and tokenizer of the same model\n"
    "  OUT: a new folder\n"
    "  SCHEME: int8[:threshold=6], w8a16, nf4[:nested], fp4[:nested],\n"
    "        int4[:asymmetric][:group=128] or fp8\n";

static volatile sig_atomic_t stop;

static void on_signal(int signal)
{
    (void)signal;
    stop = 1;
}

static void catch_signals(void)
{
    const struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
    signal(SIGXFSZ, SIG_IGN); /* a file that may not grow is an error of its write */
}

/* ---- flags ---- */

static bool set_threads(const char *text, int *n, struct status *st)
{
    char *end;
    const long v = strtol(text, &end, 10);
    if (end == text || *end || v < 0 || v > PARALLEL_THREADS_MAX)
        return status_fail(st, STATUS_BAD_INPUT, "threads: want a number from 0 to %d",
                           PARALLEL_THREADS_MAX);
    *n = (int)v;
    return true;
}

static const char **text_flag(struct store_options *o, const char *name)
{
    const struct {
        const char *name;
        const char **at;
    } flags[] = {
        {"--scheme", &o->scheme},
        {"--head", &o->head},
        {"--skip", &o->skip},
        {"--texts", &o->texts},
    };
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
        if (strcmp(name, flags[i].name) == 0)
            return flags[i].at;
    return NULL;
}

static bool take_flag(struct store_options *o, const char *name, const char *value,
                      struct status *st)
{
    const char **text = text_flag(o, name);
    if (!text && strcmp(name, "--threads") != 0)
        return status_fail(st, STATUS_BAD_INPUT,
                           "no option \"%.60s\"; want --scheme, --head, --skip, --texts or "
                           "--threads",
                           name);
    if (!value)
        return status_fail(st, STATUS_BAD_INPUT, "%s wants a value", name);
    if (!text)
        return set_threads(value, &o->n_threads, st);
    *text = value;
    return true;
}

static bool read_flags(struct store_options *o, int argc, char **argv, struct status *st)
{
    const char **paths[] = {&o->from, &o->to};
    int n_paths = 0;
    for (int i = 0; i < argc; i++) {
        if (argv[i][0] == '-') {
            if (!take_flag(o, argv[i], i + 1 < argc ? argv[i + 1] : NULL, st))
                return false;
            i++;
        } else if (n_paths == 2) {
            return status_fail(st, STATUS_BAD_INPUT, "want two paths, found \"%.60s\" too",
                               argv[i]);
        } else {
            *paths[n_paths++] = argv[i];
        }
    }
    return true;
}

/* ---- progress ---- */

/* A bar that is drawn over on a terminal, a line each quarter elsewhere. */
static void show_progress(void *ctx, uint64_t n_done, uint64_t n_total)
{
    int *last = ctx;
    char text[BAR_BYTES];
    const int percent = bar_text(text, n_done, n_total);
    if (isatty(STDERR_FILENO)) {
        fprintf(stderr, "\r%s%s", text, percent == 100 ? "\n" : "");
    } else if (percent / 25 != *last / 25) {
        fprintf(stderr, "inferd: quantizing  percent=%d\n", percent);
    }
    *last = percent;
}

static int run(struct store_options *o)
{
    struct status st = {0};
    struct buf summary;
    buf_init(&summary, SUMMARY_BYTES_MAX);
    catch_signals();
    const bool ok = store_folder(o, &summary, &st);
    if (ok && summary.at)
        fputs(summary.at, stdout);
    buf_close(&summary);
    if (ok)
        return 0;
    const bool drawn = isatty(STDERR_FILENO) && *(int *)o->ctx > 0;
    fprintf(stderr, "%sinferd: quantize: %s\n", drawn ? "\n" : "", st.msg);
    return st.code == STATUS_CANCELLED ? INTERRUPTED : st.code == STATUS_BAD_INPUT ? 2 : 1;
}

int quantize_main(int argc, char **argv)
{
    int last_percent = 0;
    struct status st = {0};
    struct store_options o = {.progress = show_progress, .ctx = &last_percent, .stop = &stop};
    if (!read_flags(&o, argc, argv, &st)) {
        fprintf(stderr, "inferd: quantize: %s\n", st.msg);
        return 2;
    }
    if (!o.from || !o.to || !o.scheme) {
        fputs(usage, stderr);
        return 2;
    }
    return run(&o);
}
