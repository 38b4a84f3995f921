/* main.c - the subcommands of inferd. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "engine/check.h"
#include "server/bench.h"
#include "server/config.h"
#include "server/probe.h"
#include "server/quantize.h"
#include "server/serve.h"

static int print_buf(struct buf *b, int code)
{
    if (b->at)
        fputs(b->at, code ? stderr : stdout);
    buf_close(b);
    return code;
}

static int run_check(int argc, char **argv)
{
    struct config c = {0};
    struct engine_options o;
    struct status st = {0};
    struct buf out;
    int code = 0;
    buf_init(&out, 1 << 20);
    config_warn_of_variables();
    if (!config_read(&c, argc, argv, &st)) {
        code = 2;
    } else if (!c.model[0]) {
        status_fail(&st, STATUS_BAD_INPUT, "which model?  inferd check FILE.gguf or FOLDER");
        code = 2;
    } else {
        config_engine(&c, &o);
        if (!check_model(&o, &out, &st))
            code = 1;
    }
    if (out.at)
        fputs(out.at, stdout);
    if (code)
        fprintf(stderr, "inferd: %s\n", st.msg);
    buf_close(&out);
    config_close(&c);
    return code;
}

static int run_config(int argc, char **argv)
{
    struct config c = {0};
    struct status st = {0};
    struct buf out;
    buf_init(&out, 1 << 20);
    config_warn_of_variables();
    bool ok = config_read(&c, argc, argv, &st);
    if (ok)
        config_print(&c, &out);
    else
        buf_printf(&out, "inferd: %s\n", st.msg);
    config_close(&c);
    return print_buf(&out, ok ? 0 : 2);
}

static int run_engine(int argc, char **argv)
{
    (void)argc, (void)argv;
    return engine_worker_main();
}

static const struct command {
    const char *name;
    int (*run)(int argc, char **argv); /* of the arguments after the name */
    const char *usage, *help;          /* help NULL: not for people */
} commands[] = {
    {"serve", serve_main, "[MODEL] [options]", "serve a model over HTTP"},
    {"check", run_check, "MODEL [options]", "say what is in a model file and what it would take"},
    {"config", run_config, "[options]", "print the options in force, as a configuration file"},
    {"health", probe_main, "[options]", "ask the daemon with these options whether it is ready"},
    {"bench", bench_main, "engine|kernels|http [options]",
     "measure a model's speed, its kernels', or a server's"},
    {"quantize", quantize_main, "IN OUT --scheme SCHEME [...]",
     "write a checkpoint, quantized, as a new folder"},
    {"engine", run_engine, "", NULL},
};
enum { N_COMMANDS = sizeof commands / sizeof *commands };

static int print_help(int code)
{
    struct buf out;
    buf_init(&out, 1 << 20);
    buf_put_str(&out, "inferd " INFERD_VERSION " - serves language models over HTTP\n\nUsage:\n");
    for (int i = 0; i < N_COMMANDS; i++)
        if (commands[i].help)
            buf_printf(&out, "  inferd %s %s\n        %s\n", commands[i].name, commands[i].usage,
                       commands[i].help);
    buf_put_str(&out, "\nEach option is also INFERD_NAME in the environment and `name = value` in "
                      "the\nfile that --config names (else /etc/inferd.conf).  First wins: flag, "
                      "environment, file.\n");
    config_help(&out);
    return print_buf(&out, code);
}

/* A file that took the place of a closed stderr would get our messages in its midst. */
static bool open_standard(void)
{
    int fd;
    do
        fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd <= STDERR_FILENO);
    return fd > STDERR_FILENO && close(fd) == 0;
}

static int run(int argc, char **argv)
{
    if (argc < 2)
        return print_help(2);
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            return print_help(0);
    if (strcmp(argv[1], "--version") == 0) {
        puts("inferd " INFERD_VERSION);
        return 0;
    }
    for (int i = 0; i < N_COMMANDS; i++)
        if (strcmp(argv[1], commands[i].name) == 0)
            return commands[i].run(argc - 2, argv + 2);
    fprintf(stderr, "inferd: no command \"%.60s\"; --help lists them\n", argv[1]);
    return 2;
}

int main(int argc, char **argv)
{
    if (!open_standard())
        return 1;
    const int code = run(argc, argv);
    if (fflush(stdout) == 0 && !ferror(stdout))
        return code;
    fputs("inferd: not all could be written to standard output\n", stderr);
    return code ? code : 1;
}
