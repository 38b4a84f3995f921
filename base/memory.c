/* memory.c - how much memory is left, on a machine and in its control groups.
 *
 * Reads small files of proc and sysfs; whatever is missing or odd does not limit. */
#include "base/memory.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH_BYTES = 4096, LINE_BYTES = 4352 };

/* The number on the line of `path` that begins with `key` ("" = the first line). */
static bool read_number(const char *path, const char *key, uint64_t *out)
{
    char line[LINE_BYTES];
    bool found = false;
    FILE *f = fopen(path, "re");
    if (!f)
        return false;
    while (!found && fgets(line, sizeof line, f)) {
        char *at = line + strlen(key), *end;
        if (strncmp(line, key, strlen(key)) != 0)
            continue;
        const unsigned long long v = strtoull(at, &end, 10);
        found = end != at; /* "max" is no number, and no limit */
        *out = v;
    }
    fclose(f);
    return found;
}

struct group_files { /* one version of the control group's files */
    const char *limit, *used, *cached[2];
};

static const struct group_files version_1 = {
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    {"total_inactive_file ", "total_active_file "},
};
static const struct group_files version_2 = {
    "memory.max",
    "memory.current",
    {"inactive_file ", "active_file "},
};

static bool read_group(const char *folder, const char *file, const char *key, uint64_t *out)
{
    char path[PATH_BYTES];
    const int n = snprintf(path, sizeof path, "%s/%s", folder, file);
    return n > 0 && (size_t)n < sizeof path && read_number(path, key, out);
}

static uint64_t left_in_group(const char *folder, const struct group_files *files)
{
    uint64_t limit, used, cached;
    if (!read_group(folder, files->limit, "", &limit) ||
        !read_group(folder, files->used, "", &used))
        return UINT64_MAX;
    for (int i = 0; i < 2; i++)
        if (read_group(folder, "memory.stat", files->cached[i], &cached))
            used -= cached < used ? cached : used;
    return used < limit ? limit - used : 0;
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* The group at mount/path and all above it: a limit anywhere on the way holds. */
static uint64_t left_on_path(const char *mount, const char *path, const struct group_files *files)
{
    char folder[PATH_BYTES];
    const size_t n_mount = strlen(mount);
    const int n = snprintf(folder, sizeof folder, "%s%s", mount, path);
    uint64_t left = UINT64_MAX;
    if (n < 0 || (size_t)n >= sizeof folder)
        return left;
    for (;;) {
        left = least(left, left_in_group(folder, files));
        char *slash = strrchr(folder + n_mount, '/');
        if (!slash)
            return left;
        *slash = '\0';
    }
}

/* A line is "ID:CONTROLLERS:PATH"; version 2 has the ID 0 and no controllers. */
static uint64_t left_by_line(const char *root, char *line)
{
    char mount[PATH_BYTES];
    char *controllers = strchr(line, ':');
    char *path = controllers ? strchr(controllers + 1, ':') : NULL;
    if (!path)
        return UINT64_MAX;
    *path++ = '\0';
    path[strcspn(path, "\n")] = '\0';
    const bool is_v2 = controllers[1] == '\0';
    if (!is_v2 && !strstr(controllers, "memory"))
        return UINT64_MAX;
    snprintf(mount, sizeof mount, "%s/sys/fs/cgroup%s", root, is_v2 ? "" : "/memory");
    return left_on_path(mount, path, is_v2 ? &version_2 : &version_1);
}

uint64_t memory_available_bytes(const char *root)
{
    char path[PATH_BYTES], line[LINE_BYTES];
    uint64_t kib, left = UINT64_MAX;
    snprintf(path, sizeof path, "%s/proc/meminfo", root);
    if (read_number(path, "MemAvailable:", &kib) && kib < UINT64_MAX / 1024)
        left = kib * 1024;
    snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    FILE *f = fopen(path, "re");
    if (!f)
        return left;
    while (fgets(line, sizeof line, f))
        left = least(left, left_by_line(root, line));
    fclose(f);
    return left;
}
