/* What memory promises: the least of what the machine has free and what its control groups leave.
 */
#include "base/memory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <cmocka.h>

/* A machine made of files. */

static void put_file(const char *root, const char *name, const char *text)
{
    char path[512];
    snprintf(path, sizeof path, "%s%s", root, name);
    for (char *at = path + strlen(root) + 1; (at = strchr(at, '/')); at++) {
        *at = 0;
        mkdir(path, 0700);
        *at = '/';
    }
    FILE *f = fopen(path, "w");
    if (!f || fputs(text, f) < 0 || fclose(f) != 0)
        abort();
}

static void available_memory_is_the_least_of_machine_and_groups(void **state)
{
    (void)state;
    static const char meminfo[] = "MemTotal:  999 kB\nMemFree:  5 kB\nMemAvailable:   8000 kB\n";
    static const struct {
        const char *name;
        struct {
            const char *path, *text;
        } file[8];
        uint64_t want;
    } rows[] = {
        {"nothing to read", {{0}}, UINT64_MAX},
        {"machine alone", {{"/proc/meminfo", meminfo}}, 8000 * 1024},
        {"group without a limit",
         {{"/proc/meminfo", meminfo},
          {"/proc/self/cgroup", "0::/a/b\n"},
          {"/sys/fs/cgroup/a/b/memory.max", "max\n"},
          {"/sys/fs/cgroup/a/b/memory.current", "77\n"}},
         8000 * 1024},
        {"version 2, files count as free",
         {{"/proc/meminfo", meminfo},
          {"/proc/self/cgroup", "0::/a/b\n"},
          {"/sys/fs/cgroup/a/b/memory.max", "1000000\n"},
          {"/sys/fs/cgroup/a/b/memory.current", "400000\n"},
          {"/sys/fs/cgroup/a/b/memory.stat", "anon 1\ninactive_file 100000\nactive_file 50000\n"}},
         750000},
        {"version 2, a parent's limit",
         {{"/proc/self/cgroup", "0::/a/b\n"},
          {"/sys/fs/cgroup/a/memory.max", "5000\n"},
          {"/sys/fs/cgroup/a/memory.current", "1000\n"},
          {"/sys/fs/cgroup/a/b/memory.max", "9000\n"},
          {"/sys/fs/cgroup/a/b/memory.current", "1000\n"}},
         4000},
        {"version 1, path not seen from inside",
         {{"/proc/meminfo", meminfo},
          {"/proc/self/cgroup", "9:pids:/x\n4:memory:/x/y\n"},
          {"/sys/fs/cgroup/memory/memory.limit_in_bytes", "3000000\n"},
          {"/sys/fs/cgroup/memory/memory.usage_in_bytes", "2000000\n"},
          {"/sys/fs/cgroup/memory/memory.stat", "total_inactive_file 500000\n"}},
         1500000},
        {"over the limit",
         {{"/proc/self/cgroup", "0::/\n"},
          {"/sys/fs/cgroup/memory.max", "10\n"},
          {"/sys/fs/cgroup/memory.current", "20\n"}},
         0},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char root[] = "/tmp/inferd-root-XXXXXX", command[64];
        assert_non_null(mkdtemp(root));
        for (int j = 0; rows[i].file[j].path; j++)
            put_file(root, rows[i].file[j].path, rows[i].file[j].text);
        const uint64_t found = memory_available_bytes(root);
        if (found != rows[i].want)
            fail_msg("%s: want %llu, found %llu", rows[i].name, (unsigned long long)rows[i].want,
                     (unsigned long long)found);
        snprintf(command, sizeof command, "rm -r %s", root);
        assert_int_equal(system(command), 0);
    }
    assert_true(memory_available_bytes("") > 1 << 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(available_memory_is_the_least_of_machine_and_groups),
    };
    return cmocka_run_group_tests_name("memory", tests, NULL, NULL);
}
