/* What log promises: one line per event, that no value can forge or break, in text and in JSON;
 * and a reader that does not read costs lines, not time. */
#include "base/clock.h"
#include "base/json_scan.h"
#include "base/log.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

static int saved = -1, out;

static int capture(void **state)
{
    (void)state;
    int fd[2];
    if (pipe2(fd, O_CLOEXEC | O_NONBLOCK) != 0)
        return -1;
    saved = dup(STDERR_FILENO);
    dup2(fd[1], STDERR_FILENO);
    close(fd[1]);
    out = fd[0];
    return 0;
}

static int restore(void **state)
{
    (void)state;
    dup2(saved, STDERR_FILENO);
    close(saved);
    close(out);
    return 0;
}

static size_t read_lines(char *at, size_t n)
{
    const ssize_t got = read(out, at, n - 1);
    at[got > 0 ? got : 0] = '\0';
    return got > 0 ? (size_t)got : 0;
}

static void a_value_can_not_forge_a_line(void **state)
{
    (void)state;
    char text[4096];
    log_init(LOG_INFO, LOG_TEXT);
    log_event(LOG_INFO, "hello", LOG_S("key", "a\nb \"c\""), LOG_I("n", -3), LOG_F("f", 0.5));
    log_event(LOG_DEBUG, "below the level");
    log_event(LOG_WARN, "no fields");
    read_lines(text, sizeof text);
    assert_non_null(strstr(text, "info  hello  key=\"a\\nb \\\"c\\\"\" n=-3 f=0.5\n"));
    assert_null(strstr(text, "below"));
    assert_non_null(strstr(text, "warn  no fields\n"));
}

static void a_json_line_is_json(void **state)
{
    (void)state;
    char text[4096];
    log_init(LOG_INFO, LOG_JSON);
    log_event(LOG_ERROR, "it \"broke\"", LOG_S("why", "x\x01\xff"), LOG_I("n", 1));
    const size_t n = read_lines(text, sizeof text);
    struct status st = {0};
    enum json_fault fault;
    assert_true(json_scan(text, n, &json_limits_default, &fault, &st));
    assert_non_null(strstr(text, "\"level\":\"error\""));
}

static void lines_stay_lines_in_text_and_are_one_event_in_json(void **state)
{
    (void)state;
    static const char table[] = "memory\n  weights   92.1 MiB  \"fast\"\n  total\n";
    char text[4096];
    log_init(LOG_INFO, LOG_TEXT);
    log_text(LOG_INFO, "plan", table);
    log_text(LOG_DEBUG, "plan", table);
    read_lines(text, sizeof text);
    const char *at = text;
    static const char *const want[] = {"memory", "  weights   92.1 MiB  \\\"fast\\\"", "  total"};
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        at = strchr(at, 'Z'); /* the end of its time */
        assert_non_null(at);
        assert_memory_equal(at, "Z info  ", 8);
        assert_memory_equal(at + 8, want[i], strlen(want[i]));
        at += 8 + strlen(want[i]);
        assert_int_equal(*at, '\n');
    }
    assert_string_equal(at, "\n");

    log_init(LOG_INFO, LOG_JSON);
    log_text(LOG_INFO, "plan", table);
    const size_t n = read_lines(text, sizeof text);
    struct status st = {0};
    enum json_fault fault;
    assert_true(json_scan(text, n, &json_limits_default, &fault, &st));
    assert_non_null(strstr(text, "\"msg\":\"plan\",\"text\":\"memory\\n  weights"));
}

static void a_long_text_in_json_keeps_whole_lines_and_counts_the_others(void **state)
{
    (void)state;
    static const char line[] = "environment variable INFERD_\x01\"QUOTED\" is no option\n";
    enum { N = 200, BYTES = sizeof line - 1 };
    static char lines[N * BYTES + 1], wide[2001], text[8192];
    struct status st = {0};
    enum json_fault fault;
    for (int i = 0; i < N; i++)
        memcpy(lines + i * BYTES, line, sizeof line);
    log_init(LOG_INFO, LOG_JSON);
    log_text(LOG_WARN, "unknown environment variables", lines);
    const size_t n = read_lines(text, sizeof text);
    assert_true(n > 3500 && n <= 4096);
    assert_true(json_scan(text, n, &json_limits_default, &fault, &st));
    int n_kept = 0, n_left = 0;
    for (const char *at = text; (at = strstr(at, "is no option\\n")); at++)
        n_kept++;
    const char *count = strstr(text, "\",\"lines_left_out\":");
    assert_non_null(count);
    assert_int_equal(sscanf(count, "\",\"lines_left_out\":%d}\n", &n_left), 1);
    assert_int_equal(n_kept + n_left, N);

    memset(wide, '\x01', sizeof wide - 1); /* six bytes each */
    log_text(LOG_WARN, "wide", wide);
    read_lines(text, sizeof text);
    assert_non_null(strstr(text, "\"text\":\"\\u0001"));
    assert_null(strstr(text, "lines_left_out"));
}

static void a_full_pipe_loses_lines_and_no_time(void **state)
{
    (void)state;
    log_init(LOG_INFO, LOG_TEXT);
    const uint64_t before = log_dropped(), start = clock_now(&clock_real);
    for (int i = 0; i < 5000; i++)
        log_event(LOG_INFO, "a line that nobody reads, long enough to fill a pipe", LOG_I("i", i));
    assert_true(log_dropped() > before);
    assert_true(clock_now(&clock_real) - start < 5 * NS_PER_S);
}

/* A terminal in the place of standard error, read to its end. */
static size_t read_terminal(int master, char *text, size_t n_max)
{
    size_t n = 0;
    ssize_t got;
    while (n < n_max - 1 && (got = read(master, text + n, n_max - 1 - n)) > 0)
        n += (size_t)got;
    text[n] = '\0';
    return n;
}

static void what_is_drawn_gives_way_to_the_next_line(void **state)
{
    (void)state;
    char text[1024];
    assert_false(log_draw("[##..]")); /* a pipe is no terminal */
    const int master = posix_openpt(O_RDWR | O_NOCTTY);
    assert_true(master >= 0 && grantpt(master) == 0 && unlockpt(master) == 0);
    const int terminal = open(ptsname(master), O_RDWR | O_NOCTTY);
    assert_true(terminal >= 0);
    dup2(terminal, STDERR_FILENO);
    close(terminal);
    fcntl(master, F_SETFL, O_NONBLOCK);
    assert_true(log_draw("[##..]"));
    assert_true(log_draw("[###.]"));
    log_event(LOG_INFO, "ready");
    log_event(LOG_INFO, "again");
    read_terminal(master, text, sizeof text);
    static const char drawn[] = "\r[##..]\r      \r\r[###.]\r      \r2";
    if (strncmp(text, drawn, sizeof drawn - 1) != 0 || !strstr(text, "ready\r\n2"))
        fail_msg("%s", text);
    log_init(LOG_INFO, LOG_JSON);
    assert_false(log_draw("[##..]"));
    log_init(LOG_WARN, LOG_TEXT);
    assert_false(log_draw("[##..]"));
    assert_true(read_terminal(master, text, sizeof text) == 0);
    log_init(LOG_INFO, LOG_TEXT);
    close(master);
}

#define T(name) cmocka_unit_test_setup_teardown(name, capture, restore)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(a_value_can_not_forge_a_line),
        T(a_json_line_is_json),
        T(lines_stay_lines_in_text_and_are_one_event_in_json),
        T(a_long_text_in_json_keeps_whole_lines_and_counts_the_others),
        T(a_full_pipe_loses_lines_and_no_time),
        T(what_is_drawn_gives_way_to_the_next_line),
    };
    return cmocka_run_group_tests_name("log", tests, NULL, NULL);
}
