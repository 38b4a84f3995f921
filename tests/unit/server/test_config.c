/* What the configuration promises: one name everywhere, flag before environment before file before
 * default, and an error that says what would have been right. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "server/config.h"

static bool read_args(struct config *c, struct status *st, int argc, const char **argv)
{
    memset(st, 0, sizeof *st);
    return config_read(c, argc, (char **)(uintptr_t)argv, st);
}

#define READ(c, st, ...)                                                                           \
    read_args(c, st, (int)(sizeof((const char *[]){__VA_ARGS__}) / sizeof(char *)),                \
              (const char *[]){__VA_ARGS__})

static void a_flag_is_written_in_two_ways(void **state)
{
    struct config c;
    struct status st;
    (void)state;
    assert_true(READ(&c, &st, "/m.gguf", "--port", "9000", "--host=0.0.0.0", "--allow-open"));
    assert_string_equal(c.model, "/m.gguf");
    assert_int_equal(c.port, 9000);
    assert_string_equal(c.host, "0.0.0.0");
    assert_int_equal(c.allow_open, 1);
    config_close(&c);
    assert_true(READ(&c, &st, "--prefix-cache", "off", "--log-requests=no", "--max-seqs", "8"));
    assert_int_equal(c.prefix_cache, 0);
    assert_int_equal(c.log_requests, 0);
    assert_int_equal(c.max_seqs, 8);
    config_close(&c);
}

static void a_flag_wins_over_environment_over_file(void **state)
{
    struct config c;
    struct status st;
    char path[] = "/tmp/inferd-config-XXXXXX", flag[64];
    (void)state;
    int fd = mkstemp(path);
    static const char text[] = "# a comment\n\n port = 1001\r\nmax-seqs=3\nhost = ::1\n";
    assert_int_equal(write(fd, text, sizeof text - 1), sizeof text - 1);
    close(fd);
    snprintf(flag, sizeof flag, "--config=%s", path);
    setenv("INFERD_PORT", "1002", 1);
    setenv("INFERD_MAX_SEQS", "4", 1);
    assert_true(READ(&c, &st, flag, "--port", "1003"));
    assert_int_equal(c.port, 1003);
    assert_int_equal(c.max_seqs, 4);
    assert_string_equal(c.host, "::1");
    assert_int_equal(c.max_step_tokens, 0);
    assert_int_equal(c.mixed_step_tokens, 0);
    config_close(&c);
    unsetenv("INFERD_PORT");
    unsetenv("INFERD_MAX_SEQS");
    unlink(path);
}

static void a_variable_that_is_no_option_is_named_with_the_nearest(void **state)
{
    static const struct {
        const char *name, *value;
        const char *says; /* NULL = nothing */
    } table[] = {
        {"INFERD_KV_DTYP", "int8",
         "environment variable INFERD_KV_DTYP is no option; did you mean INFERD_KV_DTYPE?\n"},
        {"INFERD_WHATEVER_IT_IS", "1", "environment variable INFERD_WHATEVER_IT_IS is no option\n"},
        {"INFERD_CONFIG", "/none", NULL},
        {"INFERD_PORT", "8081", NULL},
        {"INFERD_SERVICE_HOST", "10.0.0.1", NULL},
        {"INFERD_SERVICE_PORT_HTTP", "8080", NULL},
        {"INFERD_PORT_8080_TCP", "tcp://10.0.0.1:8080", NULL},
        {"INFERD_PORT_8080_TCP_ADDR", "10.0.0.1", NULL},
        {"INFERD_METRICS_PORT", "tcp://10.0.0.1:9090", NULL},
        {"INFERD_TEST_MODEL", "m.gguf", NULL},
        {"INFERD_E2E_AGAIN", "1", NULL},
        {"NOT_INFERD_KV_DTYP", "1", NULL},
    };
    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        char *was = getenv(table[i].name) ? strdup(getenv(table[i].name)) : NULL;
        struct buf before, lines;
        buf_init(&before, 1 << 16);
        buf_init(&lines, 1 << 16);
        unsetenv(table[i].name);
        config_unknown_variables(&before);
        setenv(table[i].name, table[i].value, 1);
        config_unknown_variables(&lines);
        unsetenv(table[i].name);
        if (was)
            setenv(table[i].name, was, 1);
        const bool is_told = lines.n != before.n;
        if (is_told != (table[i].says != NULL) || (is_told && !strstr(lines.at, table[i].says)))
            fail_msg("%s: %s", table[i].name, lines.at ? lines.at : "nothing");
        buf_close(&before);
        buf_close(&lines);
        free(was);
    }
}

static void variables_beyond_the_room_for_them_are_counted(void **state)
{
    enum { N = 200 };
    char name[32];
    struct buf lines;
    int n_more = 0, n_told = 0;
    (void)state;
    for (int i = 0; i < N; i++) {
        snprintf(name, sizeof name, "INFERD_NO_OPTION_%03d", i);
        setenv(name, "1", 1);
    }
    buf_init(&lines, 4096);
    config_unknown_variables(&lines);
    for (int i = 0; i < N; i++) {
        snprintf(name, sizeof name, "INFERD_NO_OPTION_%03d", i);
        n_told += strstr(lines.at, name) != NULL;
        unsetenv(name);
    }
    assert_false(lines.failed);
    const char *last = strstr(lines.at, " is no option\n");
    for (const char *at = last; (at = strstr(at + 1, " is no option\n")) != NULL;)
        last = at;
    assert_int_equal(sscanf(last, " is no option\n%d more environment variables", &n_more), 1);
    assert_true(n_told > 40);
    assert_true(n_told + n_more >= N); /* there may be others */
    buf_close(&lines);
}

static void a_service_link_of_kubernetes_is_refused_as_what_it_is(void **state)
{
    struct config c;
    struct status st;
    (void)state;
    setenv("INFERD_PORT", "tcp://10.96.0.7:8080", 1);
    assert_false(READ(&c, &st, "m.gguf"));
    unsetenv("INFERD_PORT");
    assert_int_equal(st.code, STATUS_BAD_INPUT);
    if (!strstr(st.msg, "environment variable INFERD_PORT: \"tcp://10.96.0.7:8080\"") ||
        !strstr(st.msg, "enableServiceLinks: false"))
        fail_msg("%s", st.msg);
    config_close(&c);
}

static void bytes_have_units(void **state)
{
    static const struct {
        const char *text;
        int64_t bytes; /* -1: refused */
    } table[] = {{"1024", 1024},       {"64KiB", 65536}, {"1 MiB", 1 << 20},
                 {"8MiB", 8 << 20},    {"10GB", -1},     {"9MiB", -1},
                 {"1e6", -1},          {"-1", -1},       {"", -1},
                 {"KiB", -1},          {" 2048", -1},    {"99999999999999999999", -1},
                 {"8589934592GiB", -1}};
    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct config c;
        struct status st;
        char flag[64];
        snprintf(flag, sizeof flag, "--body-max=%s", table[i].text);
        bool ok = READ(&c, &st, flag);
        if (ok != (table[i].bytes >= 0) || (ok && c.body_max != table[i].bytes))
            fail_msg("body-max %s: %s", table[i].text, ok ? "accepted" : st.msg);
        config_close(&c);
    }
}

static void an_error_says_what_would_be_right(void **state)
{
    static const struct {
        const char *flag, *says;
    } table[] = {
        {"--prot=80", "did you mean \"port\"?"},
        {"--max-seq=80", "did you mean \"max-seqs\"?"},
        {"--completely-unknown=1", "--help lists them"},
        {"--port=70000", "from 0 to 65535"},
        {"--port=-1", "from 0 to 65535"},
        {"--port=80x", "from 0 to 65535"},
        {"--port", "--port wants a value"},
        {"--engine-deaths-max=-2", "from -1 to 32"},
        {"--engine-deaths-max=-", "from -1 to 32"},
        {"--engine-backoff-ms=0", "from 1 to"},
        {"--kv-dtype=f64", "auto|f32|f16|bf16|int8|fp8"},
        {"--kv-dtype=f", "auto|f32|f16|bf16|int8|fp8"},
        {"--kv-dtype=", "auto|f32|f16|bf16|int8|fp8"},
        {"--kv-memory=2GB", "KiB, MiB, GiB"},
        {"--prefix-cache=perhaps", "on or off"},
        {"--max-seqs=-1", "from 0 to"},
        {"--weights=none", "file|random"},
        {"--device=gpu", "auto|cpu|cuda"},
        {"--device-index=-1", "from 0 to 1023"},
        {"--dtype=f64", "auto|bf16|f16|f32"},
        {"--gpu-memory=0", "above 0 and at most 1, found \"0\""},
        {"--gpu-memory=1.01", "above 0 and at most 1"},
        {"--gpu-memory=nan", "above 0 and at most 1"},
        {"--gpu-memory=0.5x", "above 0 and at most 1"},
        {"--quantize=int5", "quantize: want int8, w8a16, nf4, fp4, int4 or fp8, found \"int5\""},
        {"--quantize=", "0 bytes"},
        {"--quantize-head=int8:nested", "quantize-head: int8: want threshold=0..1000000 (int8)"},
        {"--block-tokens=17", "power of two"},
        {"--served-model-name=a\"b", "without quotes"},
        {"--served-model-name=../x", "\"..\""},
        {"--served-model-name=a\nb", "control character"},
        {"--host=", "0 bytes"},
        {"-p", "want --name value"},
        {"--config=/nonexistent", "configuration file \"/nonexistent\""},
    };
    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct config c;
        struct status st;
        if (READ(&c, &st, table[i].flag))
            fail_msg("%s: accepted", table[i].flag);
        if (!strstr(st.msg, table[i].says) || st.code == STATUS_OK)
            fail_msg("%s: \"%s\" does not say \"%s\"", table[i].flag, st.msg, table[i].says);
        config_close(&c);
    }
}

static void the_fake_engines_step_is_refused_without_it(void **state)
{
    struct config c;
    struct status st;
    (void)state;
    assert_false(READ(&c, &st, "m.gguf", "--fake-step-us=100"));
    assert_string_equal(st.msg, "fake-step-us: has a meaning with engine fake, not with process");
    config_close(&c);
    assert_true(READ(&c, &st, "m.gguf", "--fake-step-us=100", "--engine=fake"));
    config_close(&c);
}

static void a_step_must_have_room_for_each_sequence(void **state)
{
    struct config c;
    struct status st;
    (void)state;
    assert_false(READ(&c, &st, "--max-seqs=1000", "--max-step-tokens=512"));
    assert_non_null(strstr(st.msg, "max-step-tokens is 512, below max-seqs, 1000"));
    config_close(&c);
    assert_true(READ(&c, &st, "--max-seqs=1000"));
    config_close(&c);
}

static void the_engine_gets_the_device_that_was_asked_for(void **state)
{
    struct config c;
    struct status st;
    struct engine_options o;
    (void)state;
    assert_true(READ(&c, &st, "m.gguf"));
    config_engine(&c, &o);
    assert_string_equal(o.device, "auto");
    assert_string_equal(o.dtype, "auto");
    assert_int_equal(o.device_index, 0);
    assert_int_equal(o.tensor_parallel, 1);
    assert_int_equal(o.layer_split, 1);
    assert_string_equal(o.max_memory, "");
    assert_true(o.gpu_memory == 0.92);
    assert_int_equal(o.seqs_max, 0); /* the engine chooses by its device */
    assert_int_equal(o.step_tokens_max, 0);
    assert_false(o.random_weights);
    config_close(&c);
    assert_true(READ(&c, &st, "--device=cuda", "--device-index=3", "--dtype=f16",
                     "--gpu-memory=0.5", "--tensor-parallel=8"));
    config_engine(&c, &o);
    assert_string_equal(o.device, "cuda");
    assert_string_equal(o.dtype, "f16");
    assert_int_equal(o.device_index, 3);
    assert_int_equal(o.tensor_parallel, 8);
    assert_true(o.gpu_memory == 0.5);
    config_close(&c);
}

static void weights_are_random_only_where_that_is_asked_for(void **state)
{
    struct config c;
    struct status st;
    struct engine_options o;
    (void)state;
    assert_true(READ(&c, &st, "folder", "--weights=random"));
    config_engine(&c, &o);
    assert_true(o.random_weights);
    config_close(&c);
}

static void the_engine_gets_the_schemes_that_were_asked_for(void **state)
{
    struct config c;
    struct status st;
    struct engine_options o;
    (void)state;
    assert_true(READ(&c, &st, "m.gguf"));
    config_engine(&c, &o);
    assert_string_equal(o.quantize, "none");
    assert_string_equal(o.quantize_head, "none");
    assert_string_equal(o.quantize_skip, "");
    config_close(&c);
    setenv("INFERD_QUANTIZE_HEAD", "int8", 1);
    assert_true(READ(&c, &st, "--quantize=nf4:nested", "--quantize-skip=q_proj,layers.0."));
    unsetenv("INFERD_QUANTIZE_HEAD");
    config_engine(&c, &o);
    assert_string_equal(o.quantize, "nf4:nested");
    assert_string_equal(o.quantize_head, "int8");
    assert_string_equal(o.quantize_skip, "q_proj,layers.0.");
    config_close(&c);
}

static void layers_are_split_as_the_options_say(void **state)
{
    static const struct {
        const char *flag, *value;
        int n_stages; /* 0 = refused, and that is why: */
        const char *message;
    } rows[] = {
        {"--layer-split", "4", 4, NULL},
        {"--layer-split", "auto", ENGINE_SPLIT_AUTO, NULL},
        {"--layer-split", "0", 0, "layer-split: want auto or a number from 1 to 16, found \"0\""},
        {"--layer-split", "17", 0, "layer-split: want auto or a number from 1 to 16, found \"17\""},
        {"--layer-split", "2x", 0, "layer-split: want auto or a number from 1 to 16, found \"2x\""},
        {"--layer-split", "9", 0,
         "layer-split times tensor-parallel: want at most 16 ranks, found 18"},
        {"--max-memory", "0=1GiB,1=2GiB", 1, NULL},
        {"--max-memory", "20GiB", 0, "found \"20GiB\""},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct config c;
        struct status st;
        struct engine_options o;
        const char *tensor = rows[i].message ? "--tensor-parallel=2" : "--tensor-parallel=1";
        const bool ok = READ(&c, &st, tensor, rows[i].flag, rows[i].value);
        if (ok != (rows[i].n_stages != 0) || (!ok && !strstr(st.msg, rows[i].message)))
            fail_msg("%s %s: %s", rows[i].flag, rows[i].value, st.msg);
        config_engine(&c, &o);
        assert_true(!ok || o.layer_split == rows[i].n_stages);
        config_close(&c);
    }
}

static void ranks_of_a_launcher_make_the_grid(void **state)
{
    static const struct {
        const char *tensor, *split;
        int n_tensor, n_stages;
        const char *message;
    } rows[] = {
        {"1", "1", 4, 1, NULL},
        {"1", "2", 2, 2, NULL},
        {"1", "auto", 1, 4, NULL},
        {"2", "auto", 2, 2, NULL},
        {"2", "2", 2, 2, NULL},
        {"1", "3", 0, 0, "layer-split is 3, tensor-parallel 1, and WORLD_SIZE says 4"},
        {"3", "auto", 0, 0, "layer-split is auto, tensor-parallel 3, and WORLD_SIZE says 4"},
        {"8", "auto", 0, 0, "layer-split is auto, tensor-parallel 8, and WORLD_SIZE says 4"},
    };
    (void)state;
    setenv("RANK", "3", 1);
    setenv("WORLD_SIZE", "4", 1);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct config c;
        struct status st;
        struct engine_options o;
        assert_true(
            READ(&c, &st, "--tensor-parallel", rows[i].tensor, "--layer-split", rows[i].split));
        const bool ok = config_ranks(&c, &st);
        config_engine(&c, &o);
        if (ok != !rows[i].message)
            fail_msg("%s x %s: %s", rows[i].tensor, rows[i].split, st.msg);
        if (!ok)
            assert_string_equal(st.msg, rows[i].message);
        assert_true(!ok || (o.tensor_parallel == rows[i].n_tensor &&
                            o.layer_split == rows[i].n_stages && o.rank == 3));
        config_close(&c);
    }
    unsetenv("RANK");
    unsetenv("WORLD_SIZE");
}

static void launchers_say_which_rank_this_is(void **state)
{
    static const struct {
        const char *name;
        const char *env[5][2];
        const char *flag;
        int n, rank;
        const char *group, *message;
    } rows[] = {
        {"none", {{0}}, "m", 1, 0, NULL, NULL},
        {"torchrun",
         {{"RANK", "2"}, {"WORLD_SIZE", "4"}, {"LOCAL_WORLD_SIZE", "4"}, {"MASTER_PORT", "29500"}},
         "m",
         4,
         2,
         "port-29500",
         NULL},
        {"mpirun",
         {{"OMPI_COMM_WORLD_RANK", "1"},
          {"OMPI_COMM_WORLD_SIZE", "2"},
          {"PMIX_NAMESPACE", "h-7@1"}},
         "--tensor-parallel=2",
         2,
         1,
         "h-7-1",
         NULL},
        {"one", {{"RANK", "0"}, {"WORLD_SIZE", "1"}}, "m", 1, 0, NULL, NULL},
        {"one of several",
         {{"RANK", "0"},
          {"WORLD_SIZE", "1"},
          {"OMPI_COMM_WORLD_RANK", "1"},
          {"OMPI_COMM_WORLD_SIZE", "4"}},
         "m",
         0,
         0,
         NULL,
         "WORLD_SIZE says that this is the only rank, and OMPI_COMM_WORLD_SIZE that it is one of "
         "4"},
        {"machines",
         {{"RANK", "2"}, {"WORLD_SIZE", "4"}, {"LOCAL_WORLD_SIZE", "2"}},
         "m",
         0,
         0,
         NULL,
         "ranks on several machines: 2 of 4 are on this one; want MASTER_ADDR in the environment, "
         "the "
         "address of rank 0"},
        {"contradiction",
         {{"RANK", "0"}, {"WORLD_SIZE", "4"}},
         "--tensor-parallel=2",
         0,
         0,
         NULL,
         "tensor-parallel is 2, and WORLD_SIZE says 4"},
        {"no process",
         {{"RANK", "0"}, {"WORLD_SIZE", "2"}},
         "--engine=local",
         0,
         0,
         NULL,
         "engine: want process for a rank of several, as WORLD_SIZE says, found local"},
        {"no number",
         {{"RANK", "x"}, {"WORLD_SIZE", "4"}},
         "m",
         0,
         0,
         NULL,
         "environment variable RANK: \"x\" is not a number from 0 to 4"},
        {"out of range",
         {{"RANK", "4"}, {"WORLD_SIZE", "4"}},
         "m",
         0,
         0,
         NULL,
         "rank 4 is not one of 4"},
        {"too many",
         {{"RANK", "0"}, {"WORLD_SIZE", "17"}},
         "m",
         0,
         0,
         NULL,
         "environment variable WORLD_SIZE: \"17\" is not a number from 0 to 16"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct config c;
        struct status st;
        struct engine_options o;
        for (int j = 0; rows[i].env[j][0]; j++)
            setenv(rows[i].env[j][0], rows[i].env[j][1], 1);
        assert_true(READ(&c, &st, rows[i].flag));
        const bool ok = config_ranks(&c, &st);
        config_engine(&c, &o);
        if (ok != !rows[i].message)
            fail_msg("%s: %s", rows[i].name, st.msg);
        if (!ok) {
            assert_string_equal(st.msg, rows[i].message);
        } else {
            assert_int_equal(o.tensor_parallel, rows[i].n);
            assert_int_equal(o.layer_split, 1);
            assert_int_equal(o.rank, rows[i].rank);
            assert_true(!o.rank_group == !rows[i].group);
            if (o.rank_group)
                assert_string_equal(o.rank_group, rows[i].group);
        }
        for (int j = 0; rows[i].env[j][0]; j++)
            unsetenv(rows[i].env[j][0]);
        config_close(&c);
    }
}

static void the_launchers_local_rank_chooses_the_device(void **state)
{
    static const struct {
        const char *name;
        const char *env[5][2];
        int local; /* -1: not said */
        const char *message;
    } rows[] = {
        {"torchrun",
         {{"RANK", "5"},
          {"WORLD_SIZE", "8"},
          {"LOCAL_WORLD_SIZE", "4"},
          {"LOCAL_RANK", "1"},
          {"MASTER_ADDR", "10.0.0.1"}},
         1,
         NULL},
        {"by hand", {{"RANK", "0"}, {"WORLD_SIZE", "4"}, {"LOCAL_RANK", "3"}}, 3, NULL},
        {"mpirun",
         {{"OMPI_COMM_WORLD_RANK", "1"},
          {"OMPI_COMM_WORLD_SIZE", "2"},
          {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"},
          {"OMPI_COMM_WORLD_LOCAL_RANK", "0"}},
         0,
         NULL},
        {"not said", {{"RANK", "1"}, {"WORLD_SIZE", "2"}}, -1, NULL},
        {"not of several", {{"LOCAL_RANK", "1"}}, -1, NULL},
        {"another launcher's",
         {{"OMPI_COMM_WORLD_RANK", "1"}, {"OMPI_COMM_WORLD_SIZE", "2"}, {"LOCAL_RANK", "1"}},
         -1,
         NULL},
        {"no number",
         {{"RANK", "1"}, {"WORLD_SIZE", "2"}, {"LOCAL_RANK", "gpu1"}},
         0,
         "environment variable LOCAL_RANK: \"gpu1\" is not a number from 0 to 1"},
        {"negative",
         {{"RANK", "1"}, {"WORLD_SIZE", "2"}, {"LOCAL_RANK", "-1"}},
         0,
         "environment variable LOCAL_RANK: \"-1\" is not a number from 0 to 1"},
        {"not of this machine's",
         {{"RANK", "5"}, {"WORLD_SIZE", "8"}, {"LOCAL_WORLD_SIZE", "4"}, {"LOCAL_RANK", "4"}},
         0,
         "environment variable LOCAL_RANK: \"4\" is not a number from 0 to 3"},
        {"mpirun's",
         {{"OMPI_COMM_WORLD_RANK", "1"},
          {"OMPI_COMM_WORLD_SIZE", "2"},
          {"OMPI_COMM_WORLD_LOCAL_RANK", "2"}},
         0,
         "environment variable OMPI_COMM_WORLD_LOCAL_RANK: \"2\" is not a number from 0 to 1"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct config c;
        struct status st;
        struct engine_options o;
        for (int j = 0; j < 5 && rows[i].env[j][0]; j++)
            setenv(rows[i].env[j][0], rows[i].env[j][1], 1);
        assert_true(READ(&c, &st, "m"));
        const bool ok = config_ranks(&c, &st);
        config_engine(&c, &o);
        if (ok != !rows[i].message || (!ok && strcmp(st.msg, rows[i].message) != 0))
            fail_msg("%s: %s", rows[i].name, st.msg);
        if (ok && (o.has_local_rank != (rows[i].local >= 0) ||
                   (o.has_local_rank && o.local_rank != rows[i].local)))
            fail_msg("%s: %d", rows[i].name, o.local_rank);
        for (int j = 0; j < 5 && rows[i].env[j][0]; j++)
            unsetenv(rows[i].env[j][0]);
        config_close(&c);
    }
}

/* Where ranks meet: memory has no host. */
static void ranks_of_several_machines_meet_at_a_port(void **state)
{
    static const struct {
        const char *name;
        const char *env[6][2];
        const char *flag;
        const char *host;
        int port;
    } rows[] = {
        {"torchrun, one machine",
         {{"RANK", "1"},
          {"WORLD_SIZE", "2"},
          {"LOCAL_WORLD_SIZE", "2"},
          {"MASTER_ADDR", "node-1"},
          {"MASTER_PORT", "29500"}},
         "m",
         NULL,
         0},
        {"torchrun, two machines, its store at the port",
         {{"RANK", "1"},
          {"WORLD_SIZE", "2"},
          {"LOCAL_WORLD_SIZE", "1"},
          {"MASTER_ADDR", "node-1"},
          {"MASTER_PORT", "29400"},
          {"TORCHELASTIC_USE_AGENT_STORE", "True"}},
         "m",
         "node-1",
         29401},
        {"by hand, another machine",
         {{"RANK", "1"}, {"WORLD_SIZE", "2"}, {"LOCAL_RANK", "0"}, {"MASTER_ADDR", "fd00::7"}},
         "m",
         "fd00::7",
         29500},
        {"by hand, this machine",
         {{"RANK", "1"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "127.0.0.1"}},
         "m",
         NULL,
         0},
        {"mpirun",
         {{"OMPI_COMM_WORLD_RANK", "1"},
          {"OMPI_COMM_WORLD_SIZE", "2"},
          {"OMPI_COMM_WORLD_LOCAL_SIZE", "1"},
          {"MASTER_ADDR", "10.0.0.1"},
          {"MASTER_PORT", "4000"}},
         "--rank-port=5000",
         "10.0.0.1",
         5000},
        {"LeaderWorkerSet",
         {{"LWS_WORKER_INDEX", "1"},
          {"LWS_GROUP_SIZE", "2"},
          {"LWS_LEADER_ADDRESS", "inferd-0.inferd.ns"}},
         "m",
         "inferd-0.inferd.ns",
         29500},
        {"forced",
         {{"RANK", "1"}, {"WORLD_SIZE", "2"}, {"LOCAL_WORLD_SIZE", "2"}},
         "--rank-transport=socket",
         "127.0.0.1",
         29500},
        {"forced to memory",
         {{"RANK", "1"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "node-1"}},
         "--rank-transport=shared",
         NULL,
         0},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct config c;
        struct status st;
        struct engine_options o;
        for (int j = 0; j < 6 && rows[i].env[j][0]; j++)
            setenv(rows[i].env[j][0], rows[i].env[j][1], 1);
        assert_true(READ(&c, &st, rows[i].flag));
        if (!config_ranks(&c, &st))
            fail_msg("%s: %s", rows[i].name, st.msg);
        config_engine(&c, &o);
        assert_int_equal(o.rank, 1);
        if (!o.rank_host != !rows[i].host || (o.rank_host && strcmp(o.rank_host, rows[i].host)) ||
            o.rank_port != rows[i].port)
            fail_msg("%s: %s, port %d", rows[i].name, o.rank_host, o.rank_port);
        for (int j = 0; j < 6 && rows[i].env[j][0]; j++)
            unsetenv(rows[i].env[j][0]);
        config_close(&c);
    }
}

static void options_of_ranks_are_refused_where_they_would_do_nothing(void **state)
{
    static const char *const none = "is for a rank that a launcher started; want RANK";
    static const struct {
        const char *flag, *more;
        const char *size;    /* WORLD_SIZE */
        const char *message; /* NULL = taken */
    } rows[] = {
        {"--rank-secret-file=/nonexistent", "m", NULL, none},
        {"--rank-port=29500", "m", NULL, none},
        {"--rank-transport=socket", "m", NULL, none},
        {"--rank-transport=shared", "--tensor-parallel=2", NULL, none},
        {"--rank-transport=auto", "--rank-port=0", NULL, NULL},
        {"--rank-secret-file=/nonexistent", "--rank-port=29500", "1", NULL}, /* a launcher's one */
        {"--rank-transport=socket", "m", "1", NULL},
        {"--rank-secret-file=/nonexistent", "m", "2", "these share memory (rank-transport auto)"},
        {"--rank-port=29500", "m", "2", "these share memory (rank-transport auto)"},
        {"--rank-secret-file=/nonexistent", "--rank-transport=shared", "2", "these share memory;"},
        {"--rank-port=29500", "--rank-transport=shared", "2", "these share memory;"},
        {"--rank-transport=shared", "m", "2", NULL},
        {"--rank-port=29500", "--rank-transport=socket", "2", NULL},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct config c;
        struct status st;
        if (rows[i].size) {
            setenv("RANK", "0", 1);
            setenv("WORLD_SIZE", rows[i].size, 1);
        }
        assert_true(READ(&c, &st, rows[i].more, rows[i].flag));
        const bool ok = config_ranks(&c, &st);
        if (ok != !rows[i].message || (!ok && st.code != STATUS_BAD_INPUT))
            fail_msg("%s %s: %s", rows[i].flag, rows[i].more, st.msg);
        const char *name = rows[i].flag + 2;
        if (!ok &&
            (!strstr(st.msg, rows[i].message) || strncmp(st.msg, name, strcspn(name, "=")) != 0))
            fail_msg("%s %s: %s", rows[i].flag, rows[i].more, st.msg);
        config_close(&c);
        unsetenv("RANK");
        unsetenv("WORLD_SIZE");
    }
}

static void a_secret_of_ranks_is_private_and_long(void **state)
{
    char path[] = "/tmp/inferd-secret-XXXXXX", flag[64];
    const int fd = mkstemp(path);
    static const struct {
        const char *text;
        mode_t mode;
        const char *message; /* NULL = taken */
    } rows[] = {
        {"0123456789abcde\n", 0600, "15 bytes, want at least 16"},
        {"0123456789abcdef\n", 0606, "mode 0606 lets others at it"},
        {"0123456789abcdef\n", 0600, NULL},
    };
    (void)state;
    setenv("RANK", "0", 1);
    setenv("WORLD_SIZE", "2", 1);
    snprintf(flag, sizeof flag, "--rank-secret-file=%s", path);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct config c;
        struct status st;
        assert_int_equal(pwrite(fd, rows[i].text, strlen(rows[i].text), 0),
                         (ssize_t)strlen(rows[i].text));
        assert_int_equal(fchmod(fd, rows[i].mode), 0);
        assert_true(READ(&c, &st, "--rank-transport=socket", flag));
        assert_int_equal(config_ranks(&c, &st), !rows[i].message);
        if (rows[i].message && !strstr(st.msg, rows[i].message))
            fail_msg("%s", st.msg);
        assert_true(rows[i].message || (c.rank_secret[0] && c.rank_secret[1]));
        config_close(&c);
    }
    unsetenv("RANK");
    unsetenv("WORLD_SIZE");
    close(fd);
    unlink(path);
}

static void a_file_error_names_its_line(void **state)
{
    static const struct {
        const char *text;
        const char *says;
    } table[] = {
        {"port = 1\nhots = x\n", "line 2: no option \"hots\"; did you mean \"host\"?"},
        {"\n\nport\n", "line 3: want \"name = value\""},
        {"port = x", "line 1: port:"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct config c;
        struct status st = {0};
        assert_true(config_defaults(&c, &st));
        assert_false(config_parse_text(&c, table[i].text, strlen(table[i].text), &st));
        if (!strstr(st.msg, table[i].says))
            fail_msg("\"%s\" does not say \"%s\"", st.msg, table[i].says);
        config_close(&c);
    }
}

static void what_is_printed_reads_back_the_same(void **state)
{
    struct config a, b;
    struct status st;
    struct buf first, second;
    (void)state;
    buf_init(&first, 1 << 20);
    buf_init(&second, 1 << 20);
    assert_true(READ(&a, &st, "m.gguf", "--port=1", "--kv-memory=3MiB", "--prefix-cache=off"));
    config_print(&a, &first);
    assert_true(config_defaults(&b, &st));
    assert_true(config_parse_text(&b, first.at, first.n, &st));
    config_print(&b, &second);
    assert_string_equal(first.at, second.at);
    /* And no prefix of it does harm. */
    for (size_t n = 0; n < first.n; n++) {
        char *exact = malloc(n + 1);
        memcpy(exact, first.at, n);
        config_close(&b);
        memset(&st, 0, sizeof st);
        assert_true(config_defaults(&b, &st));
        if (!config_parse_text(&b, exact, n, &st))
            assert_int_not_equal(st.code, STATUS_OK);
        free(exact);
    }
    config_close(&a);
    config_close(&b);
    buf_close(&first);
    buf_close(&second);
}

static void the_help_names_every_option_that_is_printed(void **state)
{
    struct config c;
    struct status st = {0};
    struct buf help, all;
    (void)state;
    buf_init(&help, 1 << 20);
    buf_init(&all, 1 << 20);
    assert_true(config_defaults(&c, &st));
    config_help(&help);
    config_print(&c, &all);
    char *save = NULL;
    for (char *line = strtok_r(all.at, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        char name[64] = "", flag[80];
        assert_true(sscanf(line, "# %63s", name) == 1 || sscanf(line, "%63s", name) == 1);
        snprintf(flag, sizeof flag, "  --%s ", name);
        if (!strstr(help.at, flag))
            fail_msg("--help lacks %s", flag);
    }
    buf_close(&help);
    buf_close(&all);
    config_close(&c);
}

static void the_engine_is_started_again_as_the_options_say(void **state)
{
    static const struct {
        const char *deaths, *backoff;
        int32_t deaths_max, backoff_ms_max;
    } table[] = {
        {"--max-seqs=4", "--max-seqs=4", 5, 10000},
        {"--engine-deaths-max=-1", "--engine-backoff-ms=250", -1, 250},
        {"--engine-deaths-max=0", "--engine-backoff-ms=1", 1, 1},
        {"--engine-deaths-max=32", "--engine-backoff-ms=3600000", 32, 3600000},
    };
    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct config c;
        struct status st;
        struct engine_options o;
        if (!READ(&c, &st, table[i].deaths, table[i].backoff))
            fail_msg("%s", st.msg);
        config_engine(&c, &o);
        assert_int_equal(o.deaths_max, table[i].deaths_max);
        assert_int_equal(o.backoff_ms_max, table[i].backoff_ms_max);
        config_close(&c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_flag_is_written_in_two_ways),
        cmocka_unit_test(a_flag_wins_over_environment_over_file),
        cmocka_unit_test(a_variable_that_is_no_option_is_named_with_the_nearest),
        cmocka_unit_test(variables_beyond_the_room_for_them_are_counted),
        cmocka_unit_test(a_service_link_of_kubernetes_is_refused_as_what_it_is),
        cmocka_unit_test(bytes_have_units),
        cmocka_unit_test(an_error_says_what_would_be_right),
        cmocka_unit_test(the_fake_engines_step_is_refused_without_it),
        cmocka_unit_test(a_step_must_have_room_for_each_sequence),
        cmocka_unit_test(the_engine_gets_the_device_that_was_asked_for),
        cmocka_unit_test(weights_are_random_only_where_that_is_asked_for),
        cmocka_unit_test(the_engine_gets_the_schemes_that_were_asked_for),
        cmocka_unit_test(layers_are_split_as_the_options_say),
        cmocka_unit_test(ranks_of_a_launcher_make_the_grid),
        cmocka_unit_test(launchers_say_which_rank_this_is),
        cmocka_unit_test(the_launchers_local_rank_chooses_the_device),
        cmocka_unit_test(ranks_of_several_machines_meet_at_a_port),
        cmocka_unit_test(options_of_ranks_are_refused_where_they_would_do_nothing),
        cmocka_unit_test(a_secret_of_ranks_is_private_and_long),
        cmocka_unit_test(a_file_error_names_its_line),
        cmocka_unit_test(the_engine_is_started_again_as_the_options_say),
        cmocka_unit_test(what_is_printed_reads_back_the_same),
        cmocka_unit_test(the_help_names_every_option_that_is_printed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
