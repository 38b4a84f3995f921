/* Layers over stages change no bit: every family, type of cache and way to quantize gives with 2, 3
 * and 4 stages what it gives with one, and with stages of two ranks what two ranks give; while so
 * many steps are in flight as stages can work at; threads and processes alike. */
#include "engine/ranks.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <cmocka.h>

#include "engine/place.h"
#include "tests/unit/engine/drive.h"
#include "tests/unit/engine/tiny_model.h"

enum { SEQS = 5, CHUNK = 11, N_NEW = 8, TOP = 4, PROMPT_MAX = 60, LAYERS = 5 };

struct found {
    struct sample_out score[SEQS][PROMPT_MAX], token[SEQS][N_NEW];
};

struct state { /* of one sequence */
    struct drive_seq at;
    int32_t n_prompt, n_sent, n_scored, n_out;
    bool waits; /* for a sample */
};

struct play {
    struct drive d;
    struct state seq[SEQS];
    int order[ENGINE_DEPTH_MAX], n_flying, next; /* whose rows are in flight */
    struct found *found;
};

static int32_t prompt_token(int seq, int i)
{
    return (i * i * 7 + 3 + 11 * seq) % 150;
}

/* The next row of a sequence in a step of its own. */
static void submit_row(struct play *p, int i)
{
    struct state *s = &p->seq[i];
    struct status st = {0};
    struct sample_params params = drive_greedy(TOP);
    params.temperature = i % 2 ? 0.8f : 0;
    params.frequency = i % 3 == 2 ? 0.5f : 0;
    params.seed = (uint64_t)i;
    drive_begin(&p->d);
    if (s->n_sent == 0)
        s->at = drive_set(&p->d, i, params, s->n_prompt);
    int32_t ids[CHUNK], n = 1;
    uint32_t flags = ROW_SAMPLE;
    ids[0] = s->n_out > 0 ? p->found->token[i][s->n_out - 1].id : 0;
    if (s->n_sent < s->n_prompt) {
        n = s->n_prompt - s->n_sent < CHUNK ? s->n_prompt - s->n_sent : CHUNK;
        flags = ROW_SCORE_NEXT | (s->n_sent + n == s->n_prompt ? ROW_SAMPLE : 0);
        for (int k = 0; k < n; k++)
            ids[k] = prompt_token(i, s->n_sent + k);
    }
    struct step_row *row = drive_row(&p->d, &s->at, flags, ids, n);
    const bool ends = s->n_sent + n >= s->n_prompt;
    row->next_token = ends ? -1 : prompt_token(i, s->n_sent + n);
    s->n_sent += n;
    s->waits = flags & ROW_SAMPLE;
    step_end(&p->d.builder);
    drive_must(ranks_submit(p->d.ranks, p->d.step, &st), "submit", &st);
    p->order[p->n_flying++] = i;
}

static void take_result(struct play *p)
{
    struct status st = {0};
    struct state *s = &p->seq[p->order[0]];
    const int i = p->order[0];
    drive_must(ranks_result(p->d.ranks, p->d.result, &st), "result", &st);
    const struct step_result *r = p->d.result;
    memcpy(&p->found->score[i][s->n_scored], step_result_scores(r),
           (size_t)r->n_scores * sizeof(struct sample_out));
    s->n_scored += r->n_scores;
    if (r->n_tokens > 0) {
        p->found->token[i][s->n_out++] = step_result_tokens(r)[0];
        s->waits = false;
    }
    memmove(p->order, p->order + 1, (size_t)--p->n_flying * sizeof *p->order);
}

/* Any sequence with something to do, in turn; -1 = none. */
static int choose(struct play *p)
{
    for (int k = 0; k < SEQS; k++) {
        const int i = (p->next + k) % SEQS;
        if (p->seq[i].n_out < N_NEW && !p->seq[i].waits) {
            p->next = i + 1;
            return i;
        }
    }
    return -1;
}

static void run(const struct engine_options *o, struct found *found)
{
    struct play p = {.found = found};
    memset(found, 0, sizeof *found);
    drive_open(&p.d, o);
    const int depth = engine_depth(&p.d.limits);
    for (int i = 0; i < SEQS; i++)
        p.seq[i].n_prompt = 9 + 12 * i;
    for (int i = 0; (i = choose(&p)) >= 0 || p.n_flying > 0;) {
        if (i >= 0 && p.n_flying < depth)
            submit_row(&p, i);
        else
            take_result(&p);
    }
    drive_close(&p.d);
}

static void check_same(const char *what, int n_stages, const struct found *a, const struct found *b)
{
    if (memcmp(a, b, sizeof *a) != 0)
        fail_msg("%s: %d stages give other bits", what, n_stages);
}

static struct engine_options options(const char *path, int n_tensor, int n_stages)
{
    return (struct engine_options){.model_path = path,
                                   .cpu_precision = "fast",
                                   .device = "cpu",
                                   .tensor_parallel = n_tensor,
                                   .layer_split = n_stages,
                                   .n_threads = 1,
                                   .seqs_max = SEQS,
                                   .step_tokens_max = 64,
                                   .block_tokens = 16,
                                   .kv_blocks = 8 * SEQS};
}

/* --- models --------------------------------------------------------------------------------- */

static char folder[64];

/* The config.json of a golden folder, with its arrays and numbers of layers replaced. */
static void write_config(const char *golden, char path[128])
{
    char from[128], text[8192], to[8192], *at = to;
    snprintf(from, sizeof from, "tests/golden/hf/%s/config.json", golden);
    FILE *f = fopen(from, "r");
    assert_non_null(f);
    text[fread(text, 1, sizeof text - 1, f)] = '\0';
    fclose(f);
    for (const char *s = text; *s;) {
        static const char layers[] = "\"num_hidden_layers\":", types[] = "\"layer_types\":";
        if (strncmp(s, layers, sizeof layers - 1) == 0) {
            at += sprintf(at, "%s %d", layers, LAYERS);
            s += strcspn(s, ",}\n");
        } else if (strncmp(s, types, sizeof types - 1) == 0) {
            s = strchr(strchr(s, ']'), ',') + 1; /* the pattern says the same */
        } else {
            *at++ = *s++;
        }
    }
    snprintf(path, 128, "%s/%s.json", folder, golden);
    f = fopen(path, "w");
    assert_true(f && fwrite(to, 1, (size_t)(at - to), f) == (size_t)(at - to));
    fclose(f);
}

static void write_tiny(char path[128], enum dtype dtype, bool tied)
{
    struct make m;
    struct tiny t = tiny_default;
    t.n_layers = LAYERS;
    t.hidden = 128; /* halves of it are whole groups of every scheme */
    t.head_dim = 32;
    t.ffn = 256;
    t.vocab = 163;
    t.dtype = dtype;
    t.tied = tied;
    snprintf(path, 128, "%s/tiny.gguf", folder);
    tiny_make(&m, &t);
    make_write(&m, path);
    make_close(&m);
}

/* --- the same bits -------------------------------------------------------------------------- */

static void check_stages(const char *what, struct engine_options o)
{
    struct found one, two, some;
    o.tensor_parallel = 1;
    o.layer_split = 1;
    run(&o, &one);
    for (o.layer_split = 2; o.layer_split <= 4; o.layer_split++) {
        run(&o, &some);
        check_same(what, o.layer_split, &one, &some);
    }
    o.tensor_parallel = 2;
    o.layer_split = 1;
    run(&o, &two);
    o.layer_split = 2;
    run(&o, &some);
    check_same(what, 2, &two, &some);
    assert_int_not_equal(memcmp(&one, &two, sizeof one), 0); /* so equality says something */
}

static void every_family_gives_the_bits_of_one_stage(void **state)
{
    (void)state;
    static const char *const families[] = {"qwen2-bf16", "gemma3-bf16", "biases-f16", "tied-f32"};
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        char path[128];
        write_config(families[i], path);
        struct engine_options o = options(path, 1, 1);
        o.random_weights = true;
        check_stages(families[i], o);
    }
}

static void every_cache_and_scheme_gives_the_bits_of_one_stage(void **state)
{
    (void)state;
    static const struct {
        enum dtype dtype;
        bool tied;
        const char *kv_dtype, *quantize, *head;
    } cases[] = {
        {DT_Q8_0, false, "int8", NULL, NULL},
        {DT_Q4_0, true, "fp8", NULL, NULL},
        {DT_F16, false, "f16", "nf4:nested", "w8a16"},
        {DT_F32, true, "f32", "int4:group=32", NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char path[128];
        write_tiny(path, cases[i].dtype, cases[i].tied);
        struct engine_options o = options(path, 1, 1);
        o.kv_dtype = cases[i].kv_dtype;
        o.quantize = cases[i].quantize;
        o.quantize_head = cases[i].head;
        check_stages(cases[i].kv_dtype, o);
    }
}

/* In shared memory, or over TCP where there is a port. */
static void check_processes(int port)
{
    char path[128], group[32];
    struct found threads, processes;
    pid_t pid[4];
    struct status st = {0};
    write_tiny(path, DT_Q8_0, true);
    snprintf(group, sizeof group, "stages-%d", (int)getpid());
    struct engine_options o = options(path, 2, 2);
    o.rank_host = port ? "127.0.0.1" : NULL;
    o.rank_port = port;
    fflush(NULL);
    for (int i = 1; i < 4; i++) {
        pid[i] = fork();
        if (pid[i] == 0) {
            o.rank_group = group;
            o.rank = i;
            struct ranks *r = ranks_open(&o, NULL, &st);
            while (r && ranks_healthy(r, &st))
                usleep(20000);
            ranks_close(r);
            _exit(st.code == STATUS_CANCELLED ? 0 : 1);
        }
    }
    run(&o, &threads);
    o.rank_group = group;
    run(&o, &processes);
    check_same("processes", 2, &threads, &processes);
    for (int i = 1; i < 4; i++) {
        int how;
        assert_int_equal(waitpid(pid[i], &how, 0), pid[i]);
        assert_true(WIFEXITED(how) && WEXITSTATUS(how) == 0);
    }
}

static void processes_give_the_bits_of_threads(void **state)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof at;
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    (void)state;
    assert_int_equal(bind(fd, (struct sockaddr *)&at, n), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &n), 0);
    close(fd);
    check_processes(0);
    check_processes(ntohs(at.sin_port));
}

/* The scores of a step, and its rows, are each about what mail holds; all steps that may fly do,
 * before the first answer is taken. */
static void results_larger_than_mail_do_not_lock_up(void **state)
{
    (void)state;
    enum { TOKENS = 6144, STEPS = 6 };
    char path[128];
    struct drive d;
    struct make m;
    struct status st = {0};
    struct tiny t = tiny_default;
    static int32_t ids[TOKENS];
    assert_true(TOKENS * sizeof(struct sample_out) > COMM_MAIL_BYTES);
    t.n_layers = 3;
    t.context = TOKENS + 1;
    t.hidden = t.ffn = 32;
    t.n_heads = t.n_kv_heads = 1;
    snprintf(path, sizeof path, "%s/long.gguf", folder);
    tiny_make(&m, &t);
    make_write(&m, path);
    make_close(&m);
    struct engine_options o = options(path, 1, 3);
    o.step_tokens_max = TOKENS;
    o.kv_blocks = SEQS * (TOKENS + 16) / 16;
    drive_open(&d, &o);
    for (int k = 0; k < STEPS; k++) {
        drive_begin(&d);
        struct drive_seq seq = drive_set(&d, k % SEQS, drive_greedy(TOP), TOKENS + 1);
        drive_row(&d, &seq, ROW_SCORE_NEXT, ids, TOKENS)->next_token = 0;
        step_end(&d.builder);
        if (k >= engine_depth(&d.limits))
            drive_must(ranks_result(d.ranks, d.result, &st), "result", &st);
        drive_must(ranks_submit(d.ranks, d.step, &st), "submit", &st);
    }
    drive_close(&d); /* with steps in flight */
}

/* --- the cut -------------------------------------------------------------------------------- */

/* The fullest stage of a cut. */
static double fullest(const struct place_costs *c, const uint64_t *room, const int32_t *first,
                      int n)
{
    double worst = 0;
    for (int s = 0; s < n; s++) {
        uint64_t bytes = (s == 0 ? c->first : 0) + (s == n - 1 ? c->last : 0);
        for (int32_t il = first[s]; il < first[s + 1]; il++)
            bytes += c->layer[il];
        const double share = (double)bytes / (double)room[s];
        worst = share > worst ? share : worst;
    }
    return worst;
}

/* By trying all. */
static double best_of(const struct place_costs *c, const uint64_t *room, int32_t *first, int s,
                      int n)
{
    if (s == n)
        return fullest(c, room, first, n);
    double best = 1e300;
    for (first[s] = first[s - 1] + 1; first[s] <= c->n_layers - (n - s); first[s]++) {
        const double share = best_of(c, room, first, s + 1, n);
        best = share < best ? share : best;
    }
    return best;
}

static void no_cut_fills_the_fullest_device_less(void **state)
{
    (void)state;
    uint64_t random = 88172645463325252u;
    for (int k = 0; k < 2000; k++) {
        struct place_costs c = {.n_layers = 1 + k % 9};
        struct placement p;
        struct status st = {0};
        uint64_t room[STAGES_MAX];
        int32_t first[STAGES_MAX + 1] = {0};
        for (int i = 0; i < c.n_layers + 6; i++) {
            random ^= random << 13, random ^= random >> 7, random ^= random << 17;
            const uint64_t v = 1 + random % 1000;
            if (i < c.n_layers)
                c.layer[i] = v;
            else
                room[i - c.n_layers] = v * 10;
            c.first = v / 2, c.last = v * 2;
        }
        const int n = 1 + (int)(random >> 20 & 0xff) % 5;
        if (n > c.n_layers) {
            assert_false(place_layers(&p, &c, room, n, &st));
            assert_non_null(strstr(st.msg, "layer-split: want at most the model's"));
            continue;
        }
        assert_true(place_layers(&p, &c, room, n, &st));
        assert_int_equal(p.first[0], 0);
        assert_int_equal(p.first[n], c.n_layers);
        for (int s = 0; s < n; s++)
            assert_true(p.first[s] < p.first[s + 1]);
        first[n] = c.n_layers;
        const double best = best_of(&c, room, first, 1, n);
        first[n] = c.n_layers;
        assert_true(fullest(&c, room, p.first, n) <= best);
    }
}

static void views_cover_the_model_once(void **state)
{
    (void)state;
    for (int tied = 0; tied < 2; tied++) {
        char path[128];
        struct model_file f, view;
        struct status st = {0};
        const struct placement p = {.n_stages = 3, .first = {0, 2, 3, LAYERS}};
        size_t n = 0;
        write_tiny(path, DT_F32, tied);
        assert_true(model_file_open(&f, path, &st));
        for (int s = 0; s < 3; s++) {
            assert_true(place_view(&view, &f, &p, s, &st));
            assert_int_equal(view.cfg.n_layers, p.first[s + 1] - p.first[s]);
            for (size_t i = 0; i < view.n_bound; i++)
                assert_true(view.bound[i].il < view.cfg.n_layers);
            n += view.n_bound;
            place_view_close(&view);
        }
        assert_int_equal(n, f.n_bound + (size_t)tied); /* a tied table is there twice */
        model_file_close(&f);
    }
}

static void a_row_of_stages_names_its_token(void **state)
{
    (void)state;
    struct drive d;
    struct status st = {0};
    char path[128];
    write_tiny(path, DT_F32, true);
    const struct engine_options o = options(path, 1, 2);
    drive_open(&d, &o);
    drive_begin(&d);
    struct drive_seq seq = drive_set(&d, 0, drive_greedy(TOP), 1);
    drive_row(&d, &seq, ROW_SAMPLE, NULL, 1);
    step_end(&d.builder);
    assert_false(step_check(d.step, step_bytes_max(&d.limits), &d.limits, &st));
    assert_int_equal(st.code, STATUS_CORRUPT);
    d.limits.n_stages = 1;
    st = (struct status){0};
    assert_true(step_check(d.step, step_bytes_max(&d.limits), &d.limits, &st));
    drive_close(&d);
}

/* --- what is asked for, and what is not there ----------------------------------------------- */

static void caps_are_read_or_refused(void **state)
{
    (void)state;
    uint64_t cap[COMM_RANKS_MAX];
    int n;
    struct status st = {0};
    assert_true(place_caps_read(" 0=20GiB, 2=1.5MiB,1=7", cap, &n, &st));
    assert_int_equal(n, 3);
    assert_true(cap[0] == 20ull << 30 && cap[1] == 7 && cap[2] == 3 << 19 && cap[3] == 0);
    assert_true(place_caps_read(NULL, cap, &n, &st) && n == 0);
    static const char *const bad[] = {"20GiB",      "0=",        "0=20XB", "16=1GiB", "0=1,0=2",
                                      "0=-1",       "x=1GiB",    "0=0",    "0 = 1",   "-1=1GiB",
                                      "0=1GiB;1=2", "0=1e99GiB", "0=nan"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        st = (struct status){0};
        if (place_caps_read(bad[i], cap, &n, &st))
            fail_msg("\"%s\" was taken", bad[i]);
        assert_int_equal(st.code, STATUS_BAD_INPUT);
    }
}

static void check_refused(const struct engine_options *o, const char *text)
{
    struct status st = {0};
    struct ranks *r = ranks_open(o, NULL, &st);
    if (r || !strstr(st.msg, text))
        fail_msg("want \"%s\", found \"%s\"", text, st.msg);
}

static void what_cannot_be_is_refused_with_its_numbers(void **state)
{
    (void)state;
    char path[128];
    write_tiny(path, DT_F32, true);
    struct engine_options o = options(path, 1, 6);
    check_refused(&o, "layer-split: want at most the model's 5 layers, found 6");
    o = options(path, 4, 5);
    check_refused(&o, "layer-split times tensor-parallel: want at most 16, found 20");
    o = options(path, 1, 2);
    o.max_memory = "2=1GiB";
    check_refused(&o, "max-memory: device 2 is not one of the 2 used");
    o.max_memory = "1=400KiB";
    check_refused(&o, "MiB (weights");
    check_refused(&o, "device 1 may hold 0 MiB");
    o.layer_split = 1;
    o.max_memory = "0=1MiB";
    check_refused(&o, "device 0 may hold 1 MiB");
    o.layer_split = ENGINE_SPLIT_AUTO;
    o.max_memory = "0=1MiB,1=1MiB";
    check_refused(&o, "layer-split auto: stage 0 of 2, layers 0 to");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_family_gives_the_bits_of_one_stage),
        cmocka_unit_test(every_cache_and_scheme_gives_the_bits_of_one_stage),
        cmocka_unit_test(processes_give_the_bits_of_threads),
        cmocka_unit_test(results_larger_than_mail_do_not_lock_up),
        cmocka_unit_test(no_cut_fills_the_fullest_device_less),
        cmocka_unit_test(views_cover_the_model_once),
        cmocka_unit_test(a_row_of_stages_names_its_token),
        cmocka_unit_test(caps_are_read_or_refused),
        cmocka_unit_test(what_cannot_be_is_refused_with_its_numbers),
    };
    strcpy(folder, "/tmp/inferd-stages-XXXXXX");
    if (!mkdtemp(folder))
        return 1;
    const int n_failed = cmocka_run_group_tests_name("stages", tests, NULL, NULL);
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", folder);
    return system(command) != 0 || n_failed;
}
