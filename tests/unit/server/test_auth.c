/* What keys promise: only a listed key passes, a bad file never opens the door, and each key has a
 * trust domain of its own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "server/auth.h"

static char path[] = "/tmp/inferd-keys-XXXXXX";

static void write_keys(const char *text, size_t n, mode_t mode)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, n, f), n);
    fclose(f);
    chmod(path, mode);
}

static void only_a_listed_key_passes(void **state)
{
    static const struct {
        const char *header;
        bool passes;
    } table[] = {
        {"Bearer sk-one", true},
        {"bearer sk-two", true},
        {"Bearer  sk-two", true},
        {"Bearer sk-on", false},
        {"Bearer sk-one2", false},
        {"Bearer", false},
        {"Bearer ", false},
        {"sk-one", false},
        {"Basic sk-one", false},
        {"Bearer sk-one sk-two", false},
        {"Bearer # no key", false},
        {"", false},
        {NULL, false},
        {"Bearer sk-\377", false},
    };
    struct status st = {0};
    struct hash128 domain;
    (void)state;
    static const char text[] = "# no key\nsk-one\r\n\n  sk-two  \n";
    write_keys(text, sizeof text - 1, 0600);
    struct auth *a = auth_open(path, &st);
    assert_non_null(a);
    assert_true(auth_has_keys(a));
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (auth_check(a, table[i].header, &domain) != table[i].passes)
            fail_msg("\"%s\": want %d", table[i].header ? table[i].header : "none",
                     table[i].passes);
    auth_close(a);
}

static void each_key_has_its_own_domain(void **state)
{
    struct status st = {0};
    struct hash128 one, again, two, none;
    (void)state;
    write_keys("k1\nk2\n", 6, 0400);
    struct auth *a = auth_open(path, &st), *open = auth_open(NULL, &st);
    assert_true(auth_check(a, "Bearer k1", &one));
    assert_true(auth_check(a, "Bearer k1", &again));
    assert_true(auth_check(a, "Bearer k2", &two));
    assert_true(hash128_equal(one, again));
    assert_false(hash128_equal(one, two));
    assert_false(auth_has_keys(open));
    assert_true(auth_check(open, NULL, &none));
    assert_true(auth_check(open, "Bearer anything", &again));
    assert_true(hash128_equal(none, again));
    auth_close(a);
    auth_close(open);
}

static void a_bad_file_is_refused(void **state)
{
    static const struct {
        const char *name, *text;
        size_t n;
        mode_t mode;
        const char *says;
    } table[] = {
        {"empty", "", 0, 0600, "has no key"},
        {"comments alone", "# a\n\n", 5, 0600, "has no key"},
        {"world-readable", "k\n", 2, 0604, "0604"},
        {"group-writable", "k\n", 2, 0620, "0620"},
        {"a space in a key", "a b\n", 4, 0600, "line 1"},
        {"a NUL in a key", "ok\na\0b\n", 7, 0600, "line 2"},
        {"8-bit key", "\303\244\n", 3, 0600, "line 1"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct status st = {0};
        write_keys(table[i].text, table[i].n, table[i].mode);
        if (auth_open(path, &st))
            fail_msg("%s: accepted", table[i].name);
        if (!strstr(st.msg, table[i].says))
            fail_msg("%s: \"%s\" does not say \"%s\"", table[i].name, st.msg, table[i].says);
    }
    struct status st = {0};
    assert_null(auth_open("/nonexistent/keys", &st));
    assert_int_equal(st.code, STATUS_IO);
}

/* Only root can give a file away, so only root sees both halves. */
static void a_group_may_read_what_is_roots(void **state)
{
    struct status st = {0};
    bool is_root = geteuid() == 0;
    (void)state;
    write_keys("k\n", 2, 0640);
    struct auth *a = auth_open(path, &st);
    assert_int_equal(a != NULL, is_root);
    auth_close(a);
    if (!is_root)
        return;
    assert_int_equal(chown(path, 1, 0), 0);
    a = auth_open(path, &st);
    assert_int_equal(chown(path, 0, 0), 0);
    assert_null(a);
    assert_non_null(strstr(st.msg, "0640"));
}

/* The loop reads the file on SIGHUP: it must never wait there for a writer. */
static void a_pipe_is_refused_at_once(void **state)
{
    char pipe_path[64];
    struct status st = {0};
    (void)state;
    snprintf(pipe_path, sizeof pipe_path, "%s-pipe", path);
    assert_int_equal(mkfifo(pipe_path, 0600), 0);
    alarm(5);
    struct auth *a = auth_open(pipe_path, &st);
    alarm(0);
    unlink(pipe_path);
    assert_null(a);
    assert_non_null(strstr(st.msg, "not a regular file"));
}

static void reloading_a_bad_file_keeps_the_keys(void **state)
{
    struct status st = {0};
    struct hash128 before, after;
    (void)state;
    write_keys("old\n", 4, 0600);
    struct auth *a = auth_open(path, &st);
    assert_true(auth_check(a, "Bearer old", &before));
    write_keys("", 0, 0600);
    assert_false(auth_reload(a, &st));
    assert_true(auth_check(a, "Bearer old", &after));
    assert_true(hash128_equal(before, after));
    memset(&st, 0, sizeof st);
    write_keys("new\nold\n", 8, 0600);
    assert_true(auth_reload(a, &st));
    assert_true(auth_check(a, "Bearer new", &after));
    assert_true(auth_check(a, "Bearer old", &after));
    assert_true(hash128_equal(before, after)); /* its cache is still its own */
    write_keys("new\n", 4, 0600);
    assert_true(auth_reload(a, &st));
    assert_false(auth_check(a, "Bearer old", &after));
    auth_close(a);
}

static int make_file(void **state)
{
    (void)state;
    int fd = mkstemp(path);
    return fd < 0 || close(fd) != 0;
}

static int remove_file(void **state)
{
    (void)state;
    return unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_a_listed_key_passes),
        cmocka_unit_test(each_key_has_its_own_domain),
        cmocka_unit_test(a_bad_file_is_refused),
        cmocka_unit_test(a_group_may_read_what_is_roots),
        cmocka_unit_test(a_pipe_is_refused_at_once),
        cmocka_unit_test(reloading_a_bad_file_keeps_the_keys),
    };
    return cmocka_run_group_tests(tests, make_file, remove_file);
}
