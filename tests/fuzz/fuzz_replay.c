/* fuzz_replay.c - runs a fuzz target over files, without libFuzzer: the corpus is a test.
 *
 * Each argument is a file or a folder of files.  Every input lies right before an unreadable page,
 * so that one byte read past its end is a fault even without a sanitizer. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

static int n_run;

static void run_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    struct stat info;
    if (!f || fstat(fileno(f), &info) != 0) {
        fprintf(stderr, "fuzz_replay: cannot read %s\n", path);
        exit(1);
    }
    const size_t n = (size_t)info.st_size;
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const size_t span = (n + page - 1) / page * page;
    char *map = mmap(NULL, span + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED || mprotect(map + span, page, PROT_NONE) != 0)
        exit(1);
    char *at = map + span - n;
    if (fread(at, 1, n, f) != n)
        exit(1);
    fclose(f);
    LLVMFuzzerTestOneInput((const uint8_t *)at, n);
    munmap(map, span + page);
    n_run++;
}

static void run_folder(const char *path)
{
    DIR *dir = opendir(path);
    if (!dir) {
        run_file(path);
        return;
    }
    for (struct dirent *e; (e = readdir(dir));) {
        if (e->d_name[0] == '.')
            continue;
        char name[4096];
        snprintf(name, sizeof name, "%s/%s", path, e->d_name);
        run_file(name);
    }
    closedir(dir);
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        run_folder(argv[i]);
    printf("%d inputs replayed\n", n_run);
    return n_run > 0 ? 0 : 1;
}
