/* backend.c - finds the backend that an option names, and opens a device of it. */
#include "kernels/backend.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define MODULE "libinferd_cuda.so"

/* The folder of this program; "" when it cannot be known. */
static void program_folder(char folder[PATH_MAX])
{
    const ssize_t n = readlink("/proc/self/exe", folder, PATH_MAX - 1);
    folder[n > 0 ? n : 0] = '\0';
    char *slash = strrchr(folder, '/');
    if (slash)
        *slash = '\0';
}

/* The module's path: the first place where it is.  False when it is in none. */
static bool find_module(char path[PATH_MAX], struct status *st)
{
    static const char *const places[] = {"", "/../lib/inferd"};
    char folder[PATH_MAX];
    program_folder(folder);
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        const int n = snprintf(path, PATH_MAX, "%s%s/" MODULE, folder, places[i]);
        if (n > 0 && n < PATH_MAX && access(path, R_OK) == 0)
            return true;
    }
    return status_fail(st, STATUS_UNSUPPORTED,
                       MODULE " is neither in %.200s nor in ../lib/inferd from there", folder);
}

static const struct backend *load_module(struct status *st)
{
    char path[PATH_MAX];
    if (!find_module(path, st))
        return NULL;
    void *module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    const struct backend *b = module ? dlsym(module, "inferd_backend") : NULL;
    if (!b) {
        status_fail(st, STATUS_UNSUPPORTED, "load " MODULE ": %.400s", dlerror());
        return NULL;
    }
    if (b->abi != OPS_ABI) {
        status_fail(st, STATUS_UNSUPPORTED, "%.200s is of another version: interface %u, want %u",
                    path, b->abi, (unsigned)OPS_ABI);
        return NULL;
    }
    return b;
}

const struct backend *backend_find(const char *name, struct status *st)
{
    if (strcmp(name, "cpu") == 0)
        return &cpu_backend;
    if (strcmp(name, "cuda") == 0)
        return load_module(st);
    status_fail(st, STATUS_BAD_INPUT, "device: want auto, cpu or cuda, found %.32s", name);
    return NULL;
}

const struct backend *backend_choose(const char *name, const struct device_options *opts,
                                     struct status *against_cuda, struct status *st)
{
    const bool is_auto = !name || strcmp(name, "auto") == 0;
    *against_cuda = (struct status){0};
    const struct backend *b = backend_find(is_auto ? "cuda" : name, is_auto ? against_cuda : st);
    return is_auto && (!b || !b->probe(opts, against_cuda)) ? &cpu_backend : b;
}

struct device *backend_open(const char *name, const struct device_options *opts,
                            const struct backend **found, struct status *against_cuda,
                            struct status *st)
{
    *found = backend_choose(name, opts, against_cuda, st);
    return *found ? (*found)->open(opts, st) : NULL;
}
