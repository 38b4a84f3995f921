#include "server/config.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "engine/check.h"

enum kind { TEXT, CHOICE, NUMBER, BYTES, SWITCH };

#define DEFAULT_FILE "/etc/inferd.conf"
enum { FILE_BYTES_MAX = 1 << 20, IDLE_BYTES_MAX = 512 };
#define PREFIX "INFERD_"
enum { VARIABLE_BYTES_MAX = 64 };
#define KIB 1024ll
#define MIB (1024ll * 1024)
#define GIB (1024ll * 1024 * 1024)

struct option {
    const char *group, *name;
    enum kind kind;
    size_t at;           /* offset in struct config */
    const char *initial; /* as the user would write it */
    int64_t min, max;    /* NUMBER and BYTES; TEXT: longest */
    const char *choices; /* CHOICE: "a|b|c" */
    const char *help;
};

#define AT(field) offsetof(struct config, field)

static const struct option options[] = {
    {"Model", "model", TEXT, AT(model), "", 0, 4096, 0,
     "GGUF file or Hugging Face folder to serve"},
    {"Model", "served-model-name", TEXT, AT(served_model_name), "", 0, 200, 0,
     "name in /v1/models and in answers; default: that of the file or folder"},
    {"Model", "weights", CHOICE, AT(weights), "file", 0, 0, "file|random",
     "random: of the shapes that the folder's config.json says, for benchmarks; no file of weights "
     "is read, and answers mean nothing"},
    {"Model", "engine", CHOICE, AT(engine), "process", 0, 0, "process|local|fake",
     "where the model runs: a child process, a thread (debugging), or nothing real (benchmarks of "
     "the front)"},
    {"Model", "fake-step-us", NUMBER, AT(fake_step_us), "0", 0, 10000000, 0,
     "with engine fake: microseconds of one step"},
    {"Model", "device", CHOICE, AT(device), "auto", 0, 0, "auto|cpu|cuda",
     "what runs the model; auto = cuda where its module and a device are there, else the CPU"},
    {"Model", "device-index", NUMBER, AT(device_index), "0", 0, 1023, 0,
     "which CUDA device, as CUDA_VISIBLE_DEVICES numbers them"},
    {"Model", "dtype", CHOICE, AT(dtype), "auto", 0, 0, "auto|bf16|f16|f32",
     "type of activations on a CUDA device; auto = f16 for weights that are f16 or quantized, else "
     "bf16; f32 = weights, keys and values in f32, too: to check answers, at 4 bytes a weight"},
    {"Model", "gpu-memory", TEXT, AT(gpu_memory), "0.92", 1, 16, 0,
     "share of a CUDA device's memory that may be used, above 0 and at most 1"},
    {"Model", "quantize", TEXT, AT(quantize), "none", 1, 63, 0,
     "quantize the layers' matrices while they are loaded: int8[:threshold=6], w8a16, "
     "nf4[:nested], "
     "fp4[:nested], int4[:asymmetric][:group=128] or fp8; none = as the file has them"},
    {"Model", "quantize-head", TEXT, AT(quantize_head), "none", 1, 63, 0,
     "the same for the embedding and the output"},
    {"Model", "quantize-skip", TEXT, AT(quantize_skip), "", 0, 1023, 0,
     "parts of names, with commas between: weights that have one in their name are not quantized"},
    {"Model", "threads", NUMBER, AT(threads), "0", 0, 64, 0,
     "CPU threads, of all ranks together; 0 = all cores"},
    {"Model", "tensor-parallel", NUMBER, AT(tensor_parallel), "1", 1, ENGINE_RANKS_MAX, 0,
     "ranks that divide each layer among them: a CUDA device each, from device-index on, or on the "
     "CPU a part of the threads each"},
    {"Model", "layer-split", TEXT, AT(layer_split), "1", 1, 4, 0,
     "stages that divide the layers among them, each of as many ranks as tensor-parallel says; "
     "auto = the fewest that fit the devices"},
    {"Model", "max-memory", TEXT, AT(max_memory), "", 0, 511, 0,
     "bytes that devices may hold, by number: 0=20GiB,1=40GiB; layers are placed by them; default: "
     "all that is free"},
    {"Model", "rank-transport", CHOICE, AT(rank_transport), "auto", 0, 0, "auto|shared|socket",
     "how ranks that a launcher started speak: memory of one machine, or TCP; auto = memory unless "
     "they are on several machines"},
    {"Model", "rank-port", NUMBER, AT(rank_port), "0", 0, 65535, 0,
     "port of rank 0 for the other ranks; 0 = MASTER_PORT, or the next one where torchrun listens "
     "there itself, or 29500"},
    {"Model", "rank-secret-file", TEXT, AT(rank_secret_file), "", 0, 4096, 0,
     "file with a secret that all ranks have, at least 16 bytes, mode as that of api-key-file; "
     "over TCP a rank without it is refused; where no ranks meet over TCP it is an error, unless a "
     "launcher started one rank alone"},
    {"Model", "peer-memory", SWITCH, AT(peer_memory), "on", 0, 1, 0,
     "CUDA devices of several ranks write each other's memory where they can; off = NCCL carries "
     "everything"},
    {"Model", "cpu-precision", CHOICE, AT(cpu_precision), "fast", 0, 0, "fast|exact",
     "fast: 8-bit activations for quantized weights; exact: float32 throughout"},
    {"Model", "cpu-isa", TEXT, AT(cpu_isa), "", 0, 31, 0,
     "at most this instruction set: scalar, avx2, avx512, avx512vnni, avx512bf16 or amx; a CPU "
     "that "
     "has less uses what it has, and the log says which; default: the best this CPU has"},
    {"Model", "engine-deaths-max", NUMBER, AT(engine_deaths_max), "5", -1, 32, 0,
     "deaths of the engine in 10 minutes, after which it stays down; -1 = always start it again"},
    {"Model", "engine-backoff-ms", NUMBER, AT(engine_backoff_ms), "10000", 1, 3600000, 0,
     "longest wait before the engine is started again"},
    {"Cache", "kv-dtype", CHOICE, AT(kv_dtype), "auto", 0, 0, "auto|f32|f16|bf16|int8|fp8",
     "type of cached keys and values; auto = f16, or f32 with cpu-precision exact; on a CUDA "
     "device "
     "that of activations; int8 and fp8 take half as much"},
    {"Cache", "kv-blocks", NUMBER, AT(kv_blocks), "0", 0, 1 << 28, 0,
     "blocks of the KV cache; 0 = from kv-memory"},
    {"Cache", "kv-memory", BYTES, AT(kv_memory), "0", 0, 1024 * GIB, 0,
     "memory for the KV cache; 0 = a share of what is free, or what gpu-memory leaves"},
    {"Cache", "block-tokens", NUMBER, AT(block_tokens), "16", 1, 256, 0, "tokens of one block"},
    {"Cache", "prefix-cache", SWITCH, AT(prefix_cache), "on", 0, 1, 0,
     "keep the blocks of finished requests for prompts that begin alike"},
    {"Scheduling", "max-seqs", NUMBER, AT(max_seqs), "0", 0, 1024, 0,
     "sequences running at once; 0 = 64, or 256 for each stage of CUDA devices"},
    {"Scheduling", "max-step-tokens", NUMBER, AT(max_step_tokens), "0", 0, 65536, 0,
     "tokens of one step; 0 = 512, or 8192 on a CUDA device"},
    {"Scheduling", "prefill-chunk", NUMBER, AT(prefill_chunk), "0", 0, 65536, 0,
     "prompt tokens of one sequence in one step; 0 = half of max-step-tokens"},
    {"Scheduling", "mixed-step-tokens", NUMBER, AT(mixed_step_tokens), "0", 0, 65536, 0,
     "tokens of a step while answers go on; 0 = 1024 (bench: any); twice the answers, if more"},
    {"Scheduling", "max-context", NUMBER, AT(max_context), "0", 0, 1 << 26, 0,
     "tokens of one sequence; 0 = what the model was trained for"},
    {"Scheduling", "queue-max", NUMBER, AT(queue_max), "0", 0, 1 << 20, 0,
     "requests that may wait; one more gets 429; 0 = 4 x max-seqs"},
    {"Scheduling", "queue-wait-ms", NUMBER, AT(queue_wait_ms), "30000", 0, 86400000, 0,
     "longest wait in the queue; 0 = no limit"},
    {"HTTP", "host", TEXT, AT(host), "127.0.0.1", 1, 255, 0, "address to listen on"},
    {"HTTP", "port", NUMBER, AT(port), "8080", 0, 65535, 0, "port to listen on; 0 = any free one"},
    {"HTTP", "api-key-file", TEXT, AT(api_key_file), "", 0, 4096, 0,
     "file with one API key a line, mode 0600, or 0640 if root's; read again on SIGHUP"},
    {"HTTP", "allow-open", SWITCH, AT(allow_open), "off", 0, 1, 0,
     "listen on other addresses than loopback without API keys"},
    {"HTTP", "max-connections", NUMBER, AT(max_connections), "10000", 1, 1000000, 0,
     "connections at once; one more gets 503"},
    {"HTTP", "connections-per-ip", NUMBER, AT(connections_per_ip), "256", 0, 1000000, 0,
     "connections of one address, loopback excepted; 0 = no limit"},
    {"HTTP", "header-timeout-ms", NUMBER, AT(header_timeout_ms), "10000", 1, 3600000, 0,
     "longest time for a request's head"},
    {"HTTP", "body-timeout-ms", NUMBER, AT(body_timeout_ms), "60000", 1, 3600000, 0,
     "longest time for a request's body"},
    {"HTTP", "idle-timeout-ms", NUMBER, AT(idle_timeout_ms), "75000", 1, 3600000, 0,
     "longest time between two requests of a connection"},
    {"HTTP", "write-timeout-ms", NUMBER, AT(write_timeout_ms), "60000", 1, 3600000, 0,
     "a client that takes no byte for so long is dropped"},
    {"HTTP", "drain-timeout-ms", NUMBER, AT(drain_timeout_ms), "30000", 0, 86400000, 0,
     "on SIGTERM, running requests may take so long to finish"},
    {"Limits", "body-max", BYTES, AT(body_max), "8MiB", 1024, 8 * MIB, 0,
     "bytes of one request body"},
    {"Limits", "prompts-max", NUMBER, AT(prompts_max), "64", 1, 4096, 0, "prompts of one call"},
    {"Limits", "choices-max", NUMBER, AT(choices_max), "128", 1, 4096, 0,
     "answers of one call: n, and prompts x n"},
    {"Limits", "logprobs-max", NUMBER, AT(logprobs_max), "20", 0, 20, 0, "top log-probabilities"},
    {"Limits", "logit-bias-max", NUMBER, AT(logit_bias_max), "1024", 0, 1024, 0,
     "entries of logit_bias"},
    {"Limits", "output-tokens-max", NUMBER, AT(output_tokens_max), "0", 0, 1 << 26, 0,
     "tokens of an answer whose request names no maximum; 0 = the rest of the context"},
    {"Log", "log-level", CHOICE, AT(log_level), "info", 0, 0, "debug|info|warn|error",
     "least level"},
    {"Log", "log-format", CHOICE, AT(log_format), "text", 0, 0, "text|json", "form of a line"},
    {"Log", "log-requests", SWITCH, AT(log_requests), "on", 0, 1, 0, "one line for each request"},
};
enum { N_OPTIONS = sizeof options / sizeof *options };

/* ---- values ---- */

static const struct option *find_option(const char *name, size_t n)
{
    for (size_t i = 0; i < N_OPTIONS; i++)
        if (strlen(options[i].name) == n && memcmp(options[i].name, name, n) == 0)
            return &options[i];
    return NULL;
}

/* "64KiB", "8 GiB", "512": bytes have units of 1024; a count has none. */
static bool parse_unit(const char *s, int64_t *factor)
{
    static const struct {
        const char *name;
        int64_t factor;
    } unit[] = {{"", 1}, {"B", 1}, {"KiB", KIB}, {"MiB", MIB}, {"GiB", GIB}};
    while (*s == ' ')
        s++;
    for (size_t i = 0; i < sizeof unit / sizeof *unit; i++)
        if (strcmp(s, unit[i].name) == 0) {
            *factor = unit[i].factor;
            return true;
        }
    return false;
}

static bool set_number(const struct option *o, const char *text, int64_t *out, struct status *st)
{
    char *end;
    int64_t factor = 1, v = 0;
    errno = 0;
    bool negative = text[0] == '-' && o->min < 0;
    char first = text[negative];
    if (first >= '0' && first <= '9') {
        v = strtoll(text, &end, 10);
        bool has_unit = o->kind == BYTES ? parse_unit(end, &factor) : *end == '\0';
        if (has_unit && errno == 0 && !__builtin_mul_overflow(v, factor, &v) && v >= o->min &&
            v <= o->max) {
            *out = v;
            return true;
        }
    }
    return status_fail(st, STATUS_BAD_INPUT, "%s: \"%.60s\" is not a number from %lld to %lld%s",
                       o->name, text, (long long)o->min, (long long)o->max,
                       o->kind == BYTES ? " (units: KiB, MiB, GiB)" : "");
}

static bool set_switch(const struct option *o, const char *text, int64_t *out, struct status *st)
{
    static const char *const names[] = {"off", "on", "false", "true", "no", "yes", "0", "1"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(text, names[i]) == 0) {
            *out = (int64_t)(i & 1);
            return true;
        }
    return status_fail(st, STATUS_BAD_INPUT, "%s: \"%.60s\" is not on or off", o->name, text);
}

static bool is_choice(const char *choices, const char *text)
{
    size_t n = strlen(text);
    for (const char *c = choices; n > 0 && c; c = strchr(c, '|')) {
        c += *c == '|';
        if (strncmp(c, text, n) == 0 && (c[n] == '|' || c[n] == '\0'))
            return true;
    }
    return false;
}

static bool check_text(const struct option *o, const char *text, struct status *st)
{
    size_t n = strlen(text);
    if (o->kind == CHOICE && !is_choice(o->choices, text))
        return status_fail(st, STATUS_BAD_INPUT, "%s: \"%.60s\" is not one of %s", o->name, text,
                           o->choices);
    if (o->kind == TEXT && (n < (size_t)o->min || n > (size_t)o->max))
        return status_fail(st, STATUS_BAD_INPUT, "%s: the value has %zu bytes, want %lld to %lld",
                           o->name, n, (long long)o->min, (long long)o->max);
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)text[i] < 0x20 || text[i] == 0x7f)
            return status_fail(st, STATUS_BAD_INPUT, "%s: the value has a control character",
                               o->name);
    return true;
}

/* `text` must live as long as the config. */
static bool set_option(struct config *c, const struct option *o, const char *text,
                       struct status *st)
{
    void *at = (char *)c + o->at;
    switch (o->kind) {
    case NUMBER:
    case BYTES:
        return set_number(o, text, at, st);
    case SWITCH:
        return set_switch(o, text, at, st);
    default:
        if (!check_text(o, text, st))
            return false;
        *(const char **)at = text;
        return true;
    }
}

static const char *own_text(struct config *c, const char *s, size_t n, struct status *st)
{
    if (c->n_owned == sizeof c->owned / sizeof *c->owned) {
        status_fail(st, STATUS_TOO_LARGE, "more than %d values", c->n_owned);
        return NULL;
    }
    char *copy = strndup(s, n);
    if (!copy)
        status_fail(st, STATUS_BUSY, "no memory");
    else
        c->owned[c->n_owned++] = copy;
    return copy;
}

/* ---- what did the user mean? ---- */

static size_t edit_distance(const char *a, size_t n_a, const char *b)
{
    size_t row[64], n_b = strlen(b);
    if (n_b >= sizeof row / sizeof *row || n_a > 64)
        return SIZE_MAX;
    for (size_t j = 0; j <= n_b; j++)
        row[j] = j;
    for (size_t i = 1; i <= n_a; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= n_b; j++) {
            size_t up = row[j], best = diagonal + (a[i - 1] != b[j - 1]);
            if (up + 1 < best)
                best = up + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            row[j] = best;
            diagonal = up;
        }
    }
    return row[n_b];
}

/* NULL when none is near. */
static const char *find_nearest(const char *name, size_t n)
{
    size_t best = SIZE_MAX;
    const char *nearest = NULL;
    for (size_t i = 0; i < N_OPTIONS; i++) {
        size_t d = edit_distance(name, n, options[i].name);
        if (d < best) {
            best = d;
            nearest = options[i].name;
        }
    }
    return best <= 3 && best < n ? nearest : NULL;
}

static bool unknown_option(const char *name, size_t n, struct status *st)
{
    const char *nearest = find_nearest(name, n);
    int shown = n > 60 ? 60 : (int)n;
    if (nearest)
        return status_fail(st, STATUS_BAD_INPUT, "no option \"%.*s\"; did you mean \"%s\"?", shown,
                           name, nearest);
    return status_fail(st, STATUS_BAD_INPUT, "no option \"%.*s\"; --help lists them", shown, name);
}

/* ---- sources ---- */

bool config_defaults(struct config *c, struct status *st)
{
    memset(c, 0, sizeof *c);
    for (size_t i = 0; i < N_OPTIONS; i++) {
        if (options[i].kind == TEXT && options[i].initial[0] == '\0')
            *(const char **)((char *)c + options[i].at) = "";
        else if (!set_option(c, &options[i], options[i].initial, st))
            return false;
    }
    return true;
}

static void trim(const char **s, size_t *n)
{
    while (*n > 0 && strchr(" \t\r", (*s)[*n - 1]) && (*s)[*n - 1])
        (*n)--;
    while (*n > 0 && (**s == ' ' || **s == '\t'))
        (*s)++, (*n)--;
}

static bool parse_line(struct config *c, const char *s, size_t n, struct status *st)
{
    trim(&s, &n);
    if (n == 0 || *s == '#')
        return true;
    if (memchr(s, '\0', n))
        return status_fail(st, STATUS_BAD_INPUT, "a line has a NUL byte");
    const char *equals = memchr(s, '=', n);
    if (!equals)
        return status_fail(st, STATUS_BAD_INPUT, "want \"name = value\"");
    const char *name = s, *value = equals + 1;
    size_t n_name = (size_t)(equals - s), n_value = n - n_name - 1;
    trim(&name, &n_name);
    trim(&value, &n_value);
    const struct option *o = find_option(name, n_name);
    if (!o)
        return unknown_option(name, n_name, st);
    const char *text = own_text(c, value, n_value, st);
    return text && set_option(c, o, text, st);
}

bool config_parse_text(struct config *c, const char *text, size_t n, struct status *st)
{
    int line = 0;
    for (size_t first = 0; first < n;) {
        const char *end = memchr(text + first, '\n', n - first);
        size_t len = end ? (size_t)(end - text) - first : n - first;
        line++;
        if (!parse_line(c, text + first, len, st))
            return status_wrap(st, "line %d", line);
        first += len + 1;
    }
    return true;
}

static bool read_file(struct config *c, const char *path, struct status *st)
{
    char *text = malloc(FILE_BYTES_MAX);
    FILE *f = fopen(path, "re");
    bool ok = false;
    if (!f || !text) {
        status_fail(st, STATUS_IO, "cannot read it: %s", strerror(errno));
        goto done;
    }
    size_t n = fread(text, 1, FILE_BYTES_MAX, f);
    if (ferror(f) || n == FILE_BYTES_MAX)
        status_fail(st, STATUS_IO, "cannot read it, or it has 1 MiB or more");
    else
        ok = config_parse_text(c, text, n, st);
done:
    if (f)
        fclose(f);
    free(text);
    return ok || status_wrap(st, "configuration file \"%s\"", path);
}

const char *config_environment(const char *name)
{
    return getenv(name);
}

/* kv-dtype -> INFERD_KV_DTYPE */
static void name_variable(const char *option, char name[VARIABLE_BYTES_MAX])
{
    size_t n = sizeof PREFIX - 1;
    memcpy(name, PREFIX, n);
    for (const char *s = option; *s && n < VARIABLE_BYTES_MAX - 1; s++)
        name[n++] = *s == '-' ? '_' : (char)(*s >= 'a' && *s <= 'z' ? *s - 32 : *s);
    name[n] = '\0';
}

/* What Kubernetes sets in a Pod for each Service in its namespace: NAME_SERVICE_HOST,
 * NAME_SERVICE_PORT[_...], NAME_PORT=tcp://ADDRESS:PORT and NAME_PORT_8080_TCP[_...]. */
static bool is_service_link(const char *name, size_t n, const char *value)
{
    static const char *const protocols[] = {"tcp://", "udp://", "sctp://"};
    const char *port = strstr(name, "_PORT_");
    for (size_t i = 0; i < sizeof protocols / sizeof *protocols; i++)
        if (strncmp(value, protocols[i], strlen(protocols[i])) == 0)
            return true;
    const char *host = strstr(name, "_SERVICE_HOST"), *of_service = strstr(name, "_SERVICE_PORT");
    return (host && host < name + n) || (of_service && of_service < name + n) ||
           (port && port + 6 < name + n && port[6] >= '0' && port[6] <= '9');
}

static bool is_known_variable(const char *name, size_t n)
{
    char known[VARIABLE_BYTES_MAX];
    if (n >= sizeof known)
        return false;
    for (size_t i = 0; i < N_OPTIONS; i++) {
        name_variable(options[i].name, known);
        if (strlen(known) == n && memcmp(known, name, n) == 0)
            return true;
    }
    return n == strlen("INFERD_CONFIG") && memcmp(name, "INFERD_CONFIG", n) == 0;
}

/* Of the project's own tests: what runs them passes its environment on. */
static bool is_for_tests(const char *name)
{
    return strncmp(name, PREFIX "TEST_", sizeof PREFIX + 4) == 0 ||
           strncmp(name, PREFIX "E2E_", sizeof PREFIX + 3) == 0;
}

static void tell_unknown_variable(const char *name, size_t n, struct buf *lines)
{
    char as_option[VARIABLE_BYTES_MAX] = "", nearest[VARIABLE_BYTES_MAX];
    const char *s = name + sizeof PREFIX - 1;
    for (size_t i = 0; s + i < name + n && i < sizeof as_option - 1; i++)
        as_option[i] = s[i] == '_' ? '-' : (char)(s[i] >= 'A' && s[i] <= 'Z' ? s[i] + 32 : s[i]);
    const char *option = find_nearest(as_option, strlen(as_option));
    buf_printf(lines, "environment variable %.*s is no option", n > 100 ? 100 : (int)n, name);
    if (option) {
        name_variable(option, nearest);
        buf_printf(lines, "; did you mean %s?", nearest);
    }
    buf_put_char(lines, '\n');
}

void config_unknown_variables(struct buf *lines)
{
    const size_t LINE_BYTES = 512; /* what each takes at most, and the last line */
    int n_more = 0;
    for (char **e = environ; e && *e; e++) {
        const char *equals = strchr(*e, '=');
        const size_t n = equals ? (size_t)(equals - *e) : 0;
        if (n < sizeof PREFIX - 1 || memcmp(*e, PREFIX, sizeof PREFIX - 1) != 0 ||
            is_for_tests(*e) || is_known_variable(*e, n) || is_service_link(*e, n, equals + 1))
            continue;
        if (lines->n + 2 * LINE_BYTES <= lines->n_max)
            tell_unknown_variable(*e, n, lines);
        else
            n_more++;
    }
    if (n_more > 0)
        buf_printf(lines, "%d more environment variables are no options\n", n_more);
}

void config_warn_of_variables(void)
{
    struct buf lines;
    buf_init(&lines, CONFIG_VARIABLES_BYTES_MAX);
    config_unknown_variables(&lines);
    for (const char *s = lines.at, *end; s && (end = strchr(s, '\n')) != NULL; s = end + 1)
        fprintf(stderr, "inferd: warning: %.*s\n", (int)(end - s), s);
    buf_close(&lines);
}

static bool read_environment(struct config *c, struct status *st)
{
    for (size_t i = 0; i < N_OPTIONS; i++) {
        char name[VARIABLE_BYTES_MAX];
        name_variable(options[i].name, name);
        const char *value = getenv(name);
        if (!value)
            continue;
        if (options[i].kind == NUMBER && is_service_link(name, strlen(name), value))
            return status_fail(st, STATUS_BAD_INPUT,
                               "environment variable %s: \"%.60s\" is no number: Kubernetes sets "
                               "it for a Service of that name; want enableServiceLinks: false in "
                               "the Pod",
                               name, value);
        const char *text = own_text(c, value, strlen(value), st);
        if (!text || !set_option(c, &options[i], text, st))
            return status_wrap(st, "environment variable %s", name);
    }
    return true;
}

/* The value of the flag at argv[*i], which is moved past it. */
static const char *flag_value(const char *equals, const struct option *o, int argc, char **argv,
                              int *i)
{
    if (equals)
        return equals + 1;
    bool next_is_value = *i + 1 < argc && (o->kind != SWITCH || argv[*i + 1][0] != '-');
    if (o->kind == SWITCH &&
        (!next_is_value || !is_choice("on|off|true|false|yes|no|0|1", argv[*i + 1])))
        return "on";
    return next_is_value ? argv[++*i] : NULL;
}

static bool read_flags(struct config *c, int argc, char **argv, struct status *st)
{
    for (int i = 0; i < argc; i++) {
        const char *arg = argv[i];
        if (i == 0 && arg[0] != '-') {
            c->model = arg;
            continue;
        }
        if (strncmp(arg, "--", 2) != 0)
            return status_fail(st, STATUS_BAD_INPUT, "want --name value, found \"%.60s\"", arg);
        const char *equals = strchr(arg, '=');
        size_t n = equals ? (size_t)(equals - arg) - 2 : strlen(arg) - 2;
        if (n == 6 && strncmp(arg + 2, "config", 6) == 0) { /* read already */
            i += !equals;
            continue;
        }
        const struct option *o = find_option(arg + 2, n);
        if (!o)
            return unknown_option(arg + 2, n, st);
        const char *value = flag_value(equals, o, argc, argv, &i);
        if (!value)
            return status_fail(st, STATUS_BAD_INPUT, "--%s wants a value", o->name);
        if (!set_option(c, o, value, st))
            return false;
    }
    return true;
}

/* --config FILE, --config=FILE, or NULL. */
static const char *find_config_flag(int argc, char **argv)
{
    for (int i = 0; i < argc; i++) {
        if (strcmp(argv[i], "--config") == 0)
            return i + 1 < argc ? argv[i + 1] : "";
        if (strncmp(argv[i], "--config=", 9) == 0)
            return argv[i] + 9;
    }
    return NULL;
}

static bool read_share(struct config *c, struct status *st)
{
    char *end;
    c->gpu_memory_share = strtod(c->gpu_memory, &end);
    return (end != c->gpu_memory && *end == '\0' && c->gpu_memory_share > 0 &&
            c->gpu_memory_share <= 1) ||
           status_fail(st, STATUS_BAD_INPUT,
                       "gpu-memory: want a number above 0 and at most 1, found \"%s\"",
                       c->gpu_memory);
}

/* A number, or auto. */
static bool read_split(struct config *c, struct status *st)
{
    char *end;
    const bool is_auto = strcmp(c->layer_split, "auto") == 0;
    c->n_stages = is_auto ? ENGINE_SPLIT_AUTO : strtoll(c->layer_split, &end, 10);
    return is_auto ||
           (end != c->layer_split && *end == '\0' && c->n_stages >= 1 &&
            c->n_stages <= ENGINE_RANKS_MAX) ||
           status_fail(st, STATUS_BAD_INPUT,
                       "layer-split: want auto or a number from 1 to %d, found \"%s\"",
                       ENGINE_RANKS_MAX, c->layer_split);
}

static bool check_ranks(const struct config *c, struct status *st)
{
    const int64_t n = c->n_stages * c->tensor_parallel;
    return n <= ENGINE_RANKS_MAX ||
           status_fail(st, STATUS_BAD_INPUT,
                       "layer-split times tensor-parallel: want at most %d ranks, found %lld",
                       ENGINE_RANKS_MAX, (long long)n);
}

static bool check_together(struct config *c, struct status *st)
{
    struct engine_options engine;
    if (!read_share(c, st) || !read_split(c, st) || !check_ranks(c, st))
        return false;
    config_engine(c, &engine);
    if (!check_options(&engine, st))
        return false;
    if (c->max_step_tokens && c->max_step_tokens < c->max_seqs)
        return status_fail(st, STATUS_BAD_INPUT,
                           "max-step-tokens is %lld, below max-seqs, %lld: a step must have room "
                           "for one token of each sequence",
                           (long long)c->max_step_tokens, (long long)c->max_seqs);
    if (c->fake_step_us != 0 && c->engine[0] != 'f')
        return status_fail(st, STATUS_BAD_INPUT,
                           "fake-step-us: has a meaning with engine fake, not with %s", c->engine);
    if (c->block_tokens & (c->block_tokens - 1))
        return status_fail(st, STATUS_BAD_INPUT, "block-tokens: %lld is not a power of two",
                           (long long)c->block_tokens);
    if (c->kv_blocks > 0 && c->kv_memory > 0)
        return status_fail(st, STATUS_BAD_INPUT,
                           "kv-blocks and kv-memory both set the size of the cache; give one");
    for (const char *s = c->served_model_name; *s; s++)
        if (*s <= ' ' || *s > '~' || strchr("\"\\", *s))
            return status_fail(st, STATUS_BAD_INPUT,
                               "served-model-name: want visible ASCII without quotes");
    if (strstr(c->served_model_name, ".."))
        return status_fail(st, STATUS_BAD_INPUT, "served-model-name: \"..\" may not be part of it");
    return true;
}

bool config_read(struct config *c, int argc, char **argv, struct status *st)
{
    struct stat s;
    if (!config_defaults(c, st))
        return false;
    const char *file = find_config_flag(argc, argv);
    if (!file)
        file = getenv("INFERD_CONFIG");
    if (file && !read_file(c, file, st))
        return false;
    if (!file && stat(DEFAULT_FILE, &s) == 0 && !read_file(c, DEFAULT_FILE, st))
        return false;
    return read_environment(c, st) && read_flags(c, argc, argv, st) && check_together(c, st);
}

void config_close(struct config *c)
{
    for (int i = 0; i < c->n_owned; i++)
        free(c->owned[i]);
    memset(c, 0, sizeof *c);
}

/* ---- printing ---- */

void config_help(struct buf *out)
{
    const char *group = "";
    for (size_t i = 0; i < N_OPTIONS; i++) {
        const struct option *o = &options[i];
        if (strcmp(group, o->group) != 0)
            buf_printf(out, "\n%s:\n", group = o->group);
        const char *value = o->kind == CHOICE   ? o->choices
                            : o->kind == SWITCH ? "on|off"
                            : o->kind == BYTES  ? "BYTES"
                            : o->kind == NUMBER ? "N"
                                                : "TEXT";
        buf_printf(out, "  --%s %s\n        %s", o->name, value, o->help);
        if (o->initial[0])
            buf_printf(out, " [%s]", o->initial);
        buf_put_char(out, '\n');
    }
}

void config_print(const struct config *c, struct buf *out)
{
    for (size_t i = 0; i < N_OPTIONS; i++) {
        const struct option *o = &options[i];
        const void *at = (const char *)c + o->at;
        if (o->kind == TEXT || o->kind == CHOICE) {
            const char *text = *(const char *const *)at;
            buf_printf(out, "%s%s = %s\n", text[0] ? "" : "# ", o->name, text);
        } else if (o->kind == SWITCH) {
            buf_printf(out, "%s = %s\n", o->name, *(const int64_t *)at ? "on" : "off");
        } else {
            buf_printf(out, "%s = %lld\n", o->name, (long long)*(const int64_t *)at);
        }
    }
}

/* ---- what the modules want ---- */

void config_engine(const struct config *c, struct engine_options *o)
{
    *o = (struct engine_options){
        .model_path = c->model,
        .random_weights = c->weights[0] == 'r',
        .cpu_precision = c->cpu_precision,
        .cpu_isa = c->cpu_isa[0] ? c->cpu_isa : NULL,
        .kv_dtype = c->kv_dtype,
        .device = c->device,
        .dtype = c->dtype,
        .quantize = c->quantize,
        .quantize_head = c->quantize_head,
        .quantize_skip = c->quantize_skip,
        .device_index = (int32_t)c->device_index,
        .gpu_memory = c->gpu_memory_share,
        .n_threads = (int32_t)c->threads,
        .tensor_parallel = (int32_t)c->tensor_parallel,
        .no_peer_memory = !c->peer_memory,
        .layer_split = (int32_t)c->n_stages,
        .max_memory = c->max_memory,
        .rank_group = c->rank_group[0] ? c->rank_group : NULL,
        .rank = (int32_t)c->rank,
        .has_local_rank = c->rank_group[0] && c->local_rank >= 0,
        .local_rank = c->rank_group[0] && c->local_rank >= 0 ? (int32_t)c->local_rank : 0,
        .rank_host = c->rank_host,
        .rank_port = (int32_t)c->rank_port,
        .rank_secret = {c->rank_secret[0], c->rank_secret[1]},
        .seqs_max = (int32_t)c->max_seqs,
        .step_tokens_max = (int32_t)c->max_step_tokens,
        .context_max = (int32_t)c->max_context,
        .block_tokens = (int32_t)c->block_tokens,
        .kv_blocks = (int32_t)c->kv_blocks,
        .kv_bytes = (uint64_t)c->kv_memory,
        /* The first death is the one that 0 allows; to the engine 0 means its default. */
        .deaths_max = c->engine_deaths_max ? (int32_t)c->engine_deaths_max : 1,
        .backoff_ms_max = (int32_t)c->engine_backoff_ms,
    };
}

void config_tell_idle(const struct config *c, const struct engine_facts *facts)
{
    struct engine_options o;
    struct buf names;
    config_engine(c, &o);
    buf_init(&names, IDLE_BYTES_MAX);
    check_idle_options(&o, facts->device, facts->n_ranks, &names);
    if (names.n > 0)
        log_event(LOG_WARN, "options without effect", LOG_S("device", facts->device),
                  LOG_I("ranks", facts->n_ranks), LOG_S("options", names.at));
    buf_close(&names);
}

void config_limits(const struct config *c, struct server_limits *l)
{
    *l = (struct server_limits){
        .body_bytes_max = c->body_max,
        .prompts_max = (int32_t)c->prompts_max,
        .choices_max = (int32_t)c->choices_max,
        .logprobs_max = (int32_t)c->logprobs_max,
        .logit_bias_max = (int32_t)c->logit_bias_max,
        .output_tokens_max = c->output_tokens_max ? (int32_t)c->output_tokens_max : INT32_MAX,
    };
}

enum log_level config_log_level(const struct config *c)
{
    switch (c->log_level[0]) {
    case 'd':
        return LOG_DEBUG;
    case 'w':
        return LOG_WARN;
    case 'e':
        return LOG_ERROR;
    default:
        return LOG_INFO;
    }
}

enum log_format config_log_format(const struct config *c)
{
    return c->log_format[0] == 'j' ? LOG_JSON : LOG_TEXT;
}
