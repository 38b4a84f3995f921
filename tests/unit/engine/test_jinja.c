/* What the template interpreter promises: each expression and statement gives the text that jinja2
 * gives, or is refused where jinja2 refuses; nothing a template does runs without bound. */
#include "chat_golden.h"

#include <pthread.h>

static void every_case_is_as_in_jinja2(void **state)
{
    (void)state;
    cJSON *rows = golden_read("tests/golden/chat/cases.json");
    const cJSON *shared = rows->child;
    int n_rows = 0, n_bad = 0;
    for (const cJSON *row = shared->next; row; row = row->next, n_rows++) {
        const struct chat_input in = {
            .messages = cJSON_GetObjectItem(shared, "messages"),
            .extra = cJSON_GetObjectItem(shared, "data"),
            .bos_token = "<s>",
            .eos_token = "</s>",
            .now_unix_s = GOLDEN_NOW,
        };
        struct status st = {0};
        const char *source = golden_text(row, "template");
        char *text = golden_render(source, &in, &st);
        n_bad += golden_differs(row, source, text, &st);
        free(text);
    }
    cJSON_Delete(rows);
    assert_true(n_rows > 500);
    assert_int_equal(n_bad, 0);
}

struct refusal {
    const char *name, *source;
    enum status_code code;
    const char *says; /* a part of the message */
};

static void check_refusals(const struct refusal *row, size_t n)
{
    cJSON *messages = cJSON_CreateArray();
    for (size_t i = 0; i < n; i++, row++) {
        const struct chat_input in = {.messages = messages};
        struct status st = {0};
        char *text = golden_render(row->source, &in, &st);
        if (text || st.code != row->code || !strstr(st.msg, row->says))
            fail_msg("%s: got %s \"%s\"", row->name, status_name(st.code),
                     text ? "a text" : st.msg);
    }
    cJSON_Delete(messages);
}

static void what_cannot_be_compiled_is_refused_with_line_and_column(void **state)
{
    (void)state;
    static const struct refusal row[] = {
        {"print not closed", "a\n {{ 1", STATUS_BAD_INPUT, "template 2:2: {{ is not closed"},
        {"tag not closed", "{% if x", STATUS_BAD_INPUT, "template 1:1: {% is not closed"},
        {"comment not closed", "x{# y", STATUS_BAD_INPUT, "template 1:2: comment"},
        {"string not closed", "{{ 'abc }}", STATUS_BAD_INPUT, "template 1:4: string"},
        {"bad operator", "{{ a $ b }}", STATUS_BAD_INPUT, "template 1:6: unexpected character"},
        {"bracket", "{{ (a] }}", STATUS_BAD_INPUT, "template 1:6: bracket"},
        {"filter", "x\n{{ a|nofilter }}", STATUS_BAD_INPUT,
         "template 2:6: unknown filter 'nofilter'"},
        {"test", "{{ a is notest }}", STATUS_BAD_INPUT, "template 1:9: unknown test 'notest'"},
        {"function", "{{ nofunction(1) }}", STATUS_BAD_INPUT, "1:4: unknown function 'nofunction'"},
        {"tag", "{% notag %}", STATUS_BAD_INPUT, "template 1:4: unknown tag 'notag'"},
        {"include", "{% include 'a' %}", STATUS_BAD_INPUT, "unknown tag 'include'"},
        {"import", "{% import 'a' as b %}", STATUS_BAD_INPUT, "unknown tag 'import'"},
        {"extends", "{% extends 'a' %}", STATUS_BAD_INPUT, "unknown tag 'extends'"},
        {"from", "{% from 'a' import b %}", STATUS_BAD_INPUT, "unknown tag 'from'"},
        {"no end", "{% if 1 %}", STATUS_BAD_INPUT, "template 1:4: tag 'if' has no 'endif'"},
        {"break", "{% break %}", STATUS_BAD_INPUT, "'break' outside a loop"},
        {"UTF-8", "\xff", STATUS_BAD_INPUT, "not UTF-8"},
        {"lipsum", "{{ lipsum() }}", STATUS_BAD_INPUT, "unknown function 'lipsum'"},
        {"cycler", "{{ cycler(1) }}", STATUS_BAD_INPUT, "unknown function 'cycler'"},
    };
    check_refusals(row, sizeof row / sizeof *row);
}

static void what_fails_in_a_render_names_its_line(void **state)
{
    (void)state;
    static const struct refusal row[] = {
        {"undefined", "a\nb\n{{ x.y }}", STATUS_BAD_INPUT, "line 3: 'x' is undefined"},
        {"type", "{{ 1 }}\n{{ 'a' + 1 }}", STATUS_BAD_INPUT, "line 2: unsupported operand types"},
        {"raise", "{{ raise_exception('Not so.') }}", STATUS_BAD_INPUT, "Not so."},
    };
    check_refusals(row, sizeof row / sizeof *row);
}

static void every_way_to_grow_meets_a_limit(void **state)
{
    (void)state;
    static const struct refusal row[] = {
        {"repeat", "{{ 'a' * 1000000000 }}", STATUS_TOO_LARGE, "4194304 bytes"},
        {"repeat list", "{{ [1] * 100000000 }}", STATUS_TOO_LARGE, "items"},
        {"huge repeat", "{{ 'a' * 9223372036854775807 }}", STATUS_TOO_LARGE, "4194304 bytes"},
        {"doubling",
         "{% set n = namespace(s='abcdefgh') %}{% for i in range(60) %}"
         "{% set n.s = n.s ~ n.s %}{% endfor %}",
         STATUS_TOO_LARGE, "4194304 bytes"},
        {"output", "{% set s = 'abcdefgh' * 100000 %}{% for i in range(60) %}{{ s }}{% endfor %}",
         STATUS_TOO_LARGE, "4194304 bytes"},
        {"replace", "{{ ('a' * 100000)|replace('a', 'b' * 1000) }}", STATUS_TOO_LARGE, "4194304"},
        {"join", "{{ range(100000)|join('x' * 1000) }}", STATUS_TOO_LARGE, "4194304 bytes"},
        {"indent", "{{ 'a'|indent(1000000000) }}", STATUS_TOO_LARGE, "4194304 bytes"},
        {"tojson indent", "{{ [[1]]|tojson(indent=1000000000) }}", STATUS_TOO_LARGE, "4194304"},
        {"center", "{{ 'a'|center(1000000000) }}", STATUS_TOO_LARGE, "4194304 bytes"},
        {"format", "{{ '%999999999d' % 1 }}", STATUS_TOO_LARGE, "format width"},
        {"range", "{{ range(100001) }}", STATUS_TOO_LARGE, "100000 items"},
        {"loops", "{% for a in range(10000) %}{% for b in range(10000) %}{% endfor %}{% endfor %}",
         STATUS_TOO_LARGE, "2000000 steps"},
        {"lists",
         "{% set n = namespace(l=[1]) %}{% for i in range(60) %}"
         "{% set n.l = n.l + n.l %}{% endfor %}",
         STATUS_TOO_LARGE, "67108864 bytes"},
        {"scan",
         "{% set s = 'a' * 4000000 %}{% for i in range(100000) %}{% if 'b' in s %}"
         "{% endif %}{% endfor %}",
         STATUS_TOO_LARGE, "2000000 steps"},
        {"macro", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", STATUS_TOO_LARGE, "64 deep"},
        {"loop", "{% set x = [[]] %}{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}",
         STATUS_TOO_LARGE, "64 deep"},
        {"deep value",
         "{% set n = namespace(l=[]) %}{% for i in range(1000) %}"
         "{% set n.l = [n.l] %}{% endfor %}{{ n.l }}",
         STATUS_TOO_LARGE, "100 deep"},
        {"deep json",
         "{% set n = namespace(l=[]) %}{% for i in range(1000) %}"
         "{% set n.l = [n.l] %}{% endfor %}{{ n.l|tojson }}",
         STATUS_TOO_LARGE, "100 deep"},
        {"deep equal",
         "{% set n = namespace(l=[], k=[]) %}{% for i in range(1000) %}"
         "{% set n.l = [n.l] %}{% set n.k = [n.k] %}{% endfor %}{{ n.l == n.k }}",
         STATUS_TOO_LARGE, "100 deep"},
        {"cycle", "{% set n = namespace() %}{% set n.a = [n] %}{{ n.a|tojson }}", STATUS_BAD_INPUT,
         "not JSON serializable"},
        {"power", "{{ 10 ** 100 }}", STATUS_TOO_LARGE, "64 bits"},
        {"map of map", "{{ [[1]]|map('map', 'map', 'map', 'map', 'map')|list }}", STATUS_BAD_INPUT,
         ""},
    };
    check_refusals(row, sizeof row / sizeof *row);
}

/* `open` n times, then `middle`, then `close` n times. */
static char *nest(const char *open, const char *middle, const char *close, size_t n)
{
    char *text = malloc(n * (strlen(open) + strlen(close)) + strlen(middle) + 1), *at = text;
    for (size_t i = 0; i < n; i++)
        at = stpcpy(at, open);
    at = stpcpy(at, middle);
    for (size_t i = 0; i < n; i++)
        at = stpcpy(at, close);
    return text;
}

static void nesting_ends_at_64_and_not_before(void **state)
{
    (void)state;
    static const char *const part[][3] = {
        {"{% if 1 %}", "x", "{% endif %}"},
        {"{% for a in [1] %}", "x", "{% endfor %}"},
    };
    for (size_t i = 0; i < sizeof part / sizeof *part; i++) {
        for (size_t n = 60; n <= 65; n++) {
            struct status st = {0};
            char *source = nest(part[i][0], part[i][1], part[i][2], n);
            struct chat_template *t = chat_template_open(source, strlen(source), &st);
            assert_int_equal(t != NULL, n <= 64);
            if (!t)
                assert_non_null(strstr(st.msg, "nested more than 64 deep"));
            chat_template_close(t);
            free(source);
        }
    }
    static const char *const bracket[][2] = {{"(", ")"},   {"[", "]"},  {"-", ""},
                                             {"not ", ""}, {"x[", "]"}, {"range(", ")"},
                                             {"{1:", "}"}};
    for (size_t i = 0; i < sizeof bracket / sizeof *bracket; i++) {
        struct status st = {0};
        char *inner = nest(bracket[i][0], "1", bracket[i][1], 20000);
        char *source = nest("{{ ", inner, " }}", 1);
        assert_null(chat_template_open(source, strlen(source), &st));
        assert_int_equal(st.code, STATUS_BAD_INPUT);
        free(inner);
        free(source);
    }
}

static void long_chains_are_run_or_refused_but_never_overflow(void **state)
{
    (void)state;
    static const char *const link[] = {"1 + ", "'a' ~ ", "1 and ", "x.y or ", "not 1 == "};
    cJSON *messages = cJSON_CreateArray();
    for (size_t i = 0; i < sizeof link / sizeof *link; i++) {
        for (size_t n = 10; n <= 20000; n *= 10) {
            struct status st = {0};
            char *inner = nest(link[i], "1", "", n);
            char *source = nest("{{ ", inner, " }}", 1);
            const struct chat_input in = {.messages = messages};
            char *text = golden_render(source, &in, &st);
            assert_true(text != NULL || st.code != STATUS_OK);
            free(text);
            free(inner);
            free(source);
        }
    }
    struct status st = {0};
    char *source = nest("", "{{ 'a'", "|upper", 5000);
    const size_t n = strlen(source);
    source = realloc(source, n + 4);
    strcpy(source + n, " }}");
    const struct chat_input in = {.messages = messages};
    assert_null(golden_render(source, &in, &st));
    assert_int_equal(st.code, STATUS_TOO_LARGE);
    free(source);
    cJSON_Delete(messages);
}

/* Sanitizers make frames several times as large. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { STACK_BYTES = 4 << 20 };
#else
enum { STACK_BYTES = 256 << 10 };
#endif

static void *render_deepest(void *at)
{
    static const char *const macro[] = {
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% macro m() %}{% set x | default(m()) %}{% endset %}{% endmacro %}{{ m() }}",
        "{% macro m() %}{% filter default(m()) %}{% endfilter %}{% endmacro %}{{ m() }}",
        "{% macro m() %}{% call m() %}{% endcall %}{% endmacro %}{{ m() }}",
        "{% macro m() %}{{ caller is defined }}{% call m() %}{% endcall %}{% endmacro %}{{ m() }}",
        "{% macro m(a=1) %}{% for x in [1] if m() %}x{% endfor %}{% endmacro %}{{ m() }}",
        "{% macro m(a) %}{{ [1]|map('default', m(1))|list }}{% endmacro %}{{ m() }}",
        "{% macro m(a=m()) %}{% endmacro %}{{ m() }}",
        "{% for a in [1] recursive %}{% for b in [1] if loop([1]) %}{% endfor %}{% endfor %}",
        "{% macro m() %}{% for x in [1] %}{% with y = [{'a': (m() ~ 1)[0:1]}] %}{% endwith %}"
        "{% endfor %}{% endmacro %}{{ m() }}",
    };
    const cJSON *messages = at;
    const struct chat_input in = {.messages = messages};
    for (size_t i = 0; i < sizeof macro / sizeof *macro; i++) {
        struct status st = {0};
        free(golden_render(macro[i], &in, &st));
    }
    static const char *const part[][3] = {
        {"{% if 1 %}{% for a in [1] %}", "{{ ((((1)))) }}", "{% endfor %}{% endif %}"},
        {"{{ (", "1", ")"},
        {"{{ [", "1", "]"},
        {"{{ {1: ", "1", "}"},
        {"{{ x[", "1", "]"},
        {"(not ", "1", ")"},
        {"(1 if 1 else ", "1", ")"},
        {"1 + ", "1", ""},
        {"'a' ~ ", "1", ""},
        {"1 and ", "1", ""},
        {"range(", "1", ")"},
        {"[1]|map('default', ", "1", ")"},
        {"-", "1", ""},
        {"1 is eq(", "1", ")"},
    };
    for (size_t i = 0; i < sizeof part / sizeof *part; i++) {
        for (size_t n = 25; n <= 1000; n += n < 70 ? 1 : 100) {
            struct status st = {0};
            const char *open = part[i][0];
            const bool is_whole = open[0] == '{' && open[1] == '%';
            open += open[0] == '{' && open[1] == '{' ? 3 : 0;
            char *inner = nest(open, part[i][1], part[i][2], n);
            char *source = is_whole ? strdup(inner) : nest("{{ ", inner, " }}", 1);
            free(golden_render(source, &in, &st));
            free(inner);
            free(source);
        }
    }
    return NULL;
}

static void the_deepest_template_needs_less_than_256_kib_of_stack(void **state)
{
    (void)state;
    cJSON *messages = cJSON_CreateArray();
    pthread_attr_t attr;
    pthread_t thread;
    assert_int_equal(pthread_attr_init(&attr), 0);
    assert_int_equal(pthread_attr_setstacksize(&attr, STACK_BYTES), 0);
    assert_int_equal(pthread_create(&thread, &attr, render_deepest, messages), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    pthread_attr_destroy(&attr);
    cJSON_Delete(messages);
}

static void a_template_over_256_kib_is_refused(void **state)
{
    (void)state;
    const size_t n = 256 << 10;
    char *source = malloc(n + 1);
    memset(source, 'x', n + 1);
    struct status st = {0};
    struct chat_template *t = chat_template_open(source, n, &st);
    assert_non_null(t);
    chat_template_close(t);
    assert_null(chat_template_open(source, n + 1, &st));
    assert_int_equal(st.code, STATUS_TOO_LARGE);
    assert_non_null(strstr(st.msg, "262144"));
    free(source);
}

static void sorting_ten_thousand_messages_is_inside_the_budget(void **state)
{
    (void)state;
    cJSON *messages = cJSON_CreateArray();
    for (int i = 0; i < 10000; i++) {
        char word[32];
        snprintf(word, sizeof word, "m%d", i * 7919 % 10000);
        cJSON *item = cJSON_CreateObject();
        cJSON_AddStringToObject(item, "content", word);
        cJSON_AddItemToArray(messages, item);
    }
    const struct chat_input in = {.messages = messages};
    struct status st = {0};
    char *text = golden_render("{% set s = messages|sort(attribute='content') %}{{ s[0].content }} "
                               "{{ messages|unique(attribute='content')|list|length }} "
                               "{{ messages|map(attribute='content')|max }}",
                               &in, &st);
    assert_string_equal(text ? text : st.msg, "m0 10000 m9999");
    free(text);
    cJSON_Delete(messages);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_case_is_as_in_jinja2),
        cmocka_unit_test(what_cannot_be_compiled_is_refused_with_line_and_column),
        cmocka_unit_test(what_fails_in_a_render_names_its_line),
        cmocka_unit_test(every_way_to_grow_meets_a_limit),
        cmocka_unit_test(nesting_ends_at_64_and_not_before),
        cmocka_unit_test(long_chains_are_run_or_refused_but_never_overflow),
        cmocka_unit_test(the_deepest_template_needs_less_than_256_kib_of_stack),
        cmocka_unit_test(a_template_over_256_kib_is_refused),
        cmocka_unit_test(sorting_ten_thousand_messages_is_inside_the_budget),
    };
    return cmocka_run_group_tests_name("jinja", tests, NULL, NULL);
}
