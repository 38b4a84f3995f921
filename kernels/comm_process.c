/* comm_process.c - groups whose ranks are processes: memory with a name, and heartbeats. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "kernels/comm_net.h"

enum {
    BEAT_MS = 200,
    BEAT_LOST_MS = 3000, /* without a beat: the process is stopped, or gone */
    SUSPECT_MS = 500,    /* between the two looks that find it so */
    LOOK_MS = 50,        /* between looks for a group to join */
    HELD_MS = 1000,      /* without a beat: who had the name has left it */
    PATH_BYTES = 128
};

/* --- hearts --------------------------------------------------------------------------------- */

static void sleep_ms(long ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

static void *beat(void *arg)
{
    struct comm *c = arg;
    while (!c->stop) {
        atomic_store(&c->group->beat_ns[c->rank], clock_now(&clock_real));
        sleep_ms(BEAT_MS);
    }
    return NULL;
}

static bool beat_start(struct comm *c, struct status *st)
{
    sigset_t all, before;
    atomic_store(&c->group->beat_ns[c->rank], clock_now(&clock_real));
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int error = pthread_create(&c->beat, NULL, beat, c);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    c->has_beat = error == 0;
    return c->has_beat || status_fail(st, STATUS_IO, "start the heartbeat of rank %d: %s", c->rank,
                                      strerror(error));
}

void comm_beat_stop(struct comm *c)
{
    c->stop = true;
    if (c->has_beat)
        pthread_join(c->beat, NULL);
}

/* The monotonic clock is the same in all processes of a machine. */
static bool beats(const struct group *g, int rank, uint64_t now_ns)
{
    const uint64_t at = atomic_load(&g->beat_ns[rank]);
    return at == 0 || now_ns < at || now_ns - at < BEAT_LOST_MS * NS_PER_MS;
}

bool comm_is_alive(const struct comm *c, int rank, uint64_t *suspect_ns, struct status *why)
{
    const uint64_t now_ns = clock_now(&clock_real);
    if (beats(c->group, rank, now_ns))
        *suspect_ns = 0;
    else if (*suspect_ns == 0)
        *suspect_ns = now_ns;
    else if (now_ns - *suspect_ns >= SUSPECT_MS * NS_PER_MS)
        return status_fail(why, STATUS_DEVICE, "the process of rank %d has not run for %d ms", rank,
                           BEAT_LOST_MS);
    return true;
}

static bool is_there(struct comm *c, int rank, struct status *why)
{
    if (c->net && atomic_load(&c->net->left_ns[rank]))
        return status_fail(why, STATUS_DEVICE, "rank %d has left", rank);
    return comm_is_alive(c, rank, &c->suspect_ns[rank], why);
}

bool comm_look(struct comm *c, struct status *st)
{
    struct status why = {0};
    c = c->whole;
    for (int r = 0; r < c->n_ranks; r++)
        if (r != c->rank && !is_there(c, r, &why)) {
            comm_abort(c, &why);
            break;
        }
    return comm_ok(c, st);
}

/* --- names ---------------------------------------------------------------------------------- */

/* In a folder that is memory; ".new" while it is made. */
static bool make_path(const char *name, const char *end, char path[PATH_BYTES], struct status *st)
{
    static const char allowed[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-";
    const size_t n = strlen(name);
    if (n == 0 || n > COMM_NAME_MAX || strspn(name, allowed) != n)
        return status_fail(st, STATUS_BAD_INPUT, "\"%.70s\" is no name of a group of ranks", name);
    snprintf(path, PATH_BYTES, "/dev/shm/inferd-%u-%s%s", (unsigned)geteuid(), name, end);
    return true;
}

static struct group *map_group(int fd, size_t n_bytes)
{
    void *map = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    return map == MAP_FAILED ? NULL : map;
}

/* The group of that path, and its bytes; NULL while there is none that could be ours. */
static struct group *find_group(const char *path, size_t *n_bytes)
{
    struct stat info;
    struct group *g = NULL;
    const int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return NULL;
    if (fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && info.st_uid == geteuid() &&
        (size_t)info.st_size >= sizeof *g) {
        *n_bytes = (size_t)info.st_size;
        g = map_group(fd, *n_bytes);
    }
    close(fd);
    return g;
}

static bool is_ours(const struct group *g)
{
    return g->magic == COMM_MAGIC && g->layout == COMM_LAYOUT;
}

static void end_group(struct group *g, uint32_t why)
{
    uint32_t none = 0;
    atomic_compare_exchange_strong(&g->failed, &none, why);
}

void comm_retire(const char *name, int rank, int64_t pid, bool ended)
{
    char path[PATH_BYTES];
    struct status st = {0};
    size_t n_bytes;
    struct group *g = make_path(name, "", path, &st) ? find_group(path, &n_bytes) : NULL;
    if (!g)
        return;
    if (is_ours(g) && pid > 0 && atomic_load(&g->pid[rank]) == pid) {
        end_group(g, rank > 0 ? COMM_LEFT + (uint32_t)rank : ended ? COMM_ENDED : COMM_RESTARTED);
        if (rank == 0)
            unlink(path);
    }
    munmap(g, n_bytes);
}

/* False while a process that runs is rank 0 of that path: it beats while we look.  Else the ranks
 * of what is there fail. */
static bool take_path(const char *path)
{
    size_t n_bytes;
    bool held = false;
    struct group *g = find_group(path, &n_bytes);
    if (!g)
        return true;
    const uint64_t beat = atomic_load(&g->beat_ns[0]);
    if (is_ours(g) && beat != 0)
        for (int ms = 0; ms < HELD_MS && !held && atomic_load(&g->failed) == 0; ms += LOOK_MS) {
            sleep_ms(LOOK_MS);
            held = atomic_load(&g->beat_ns[0]) != beat;
        }
    held = held && atomic_load(&g->failed) == 0;
    if (is_ours(g) && !held)
        end_group(g, COMM_RESTARTED);
    munmap(g, n_bytes);
    return !held;
}

/* It has its name once it is whole. */
static struct group *make_group(const char *name, int n_ranks, int n_parts, struct status *st)
{
    char path[PATH_BYTES], new_path[PATH_BYTES];
    struct group *g = NULL;
    if (!make_path(name, "", path, st) || !make_path(name, ".new", new_path, st))
        return NULL;
    if (!take_path(path)) {
        status_fail(st, STATUS_IO, "another process is rank 0 of group %s", name);
        return NULL;
    }
    unlink(new_path);
    const size_t n_bytes = comm_memory_bytes(n_ranks, n_parts);
    const int fd = open(new_path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    /* Taken now: a page that is missing later would be a signal, not an error. */
    const int error = fd < 0 ? errno : posix_fallocate(fd, 0, (off_t)n_bytes);
    errno = error;
    if (error == 0)
        g = map_group(fd, n_bytes);
    if (g)
        comm_memory_init(g, n_ranks, n_parts);
    if (!g || rename(new_path, path) != 0) {
        status_fail(st, STATUS_IO, "share %zu bytes as %s: %s", n_bytes, path, strerror(errno));
        comm_memory_drop(g);
        g = NULL;
    }
    if (fd >= 0)
        close(fd);
    return g;
}

/* --- joining -------------------------------------------------------------------------------- */

static struct comm *open_end(struct group *g, int rank, struct status *st)
{
    struct comm *c = comm_open(g, rank, st);
    if (!c) {
        comm_memory_drop(g);
        return NULL;
    }
    c->owns_memory = true;
    atomic_store(&g->pid[rank], getpid());
    if (beat_start(c, st))
        return c;
    comm_close(c);
    return NULL;
}

/* Whether the group is one that another life left behind, or that has a rank of this number. */
static bool is_over(const struct group *g, int rank)
{
    return atomic_load(&g->failed) != 0 || !beats(g, 0, clock_now(&clock_real)) ||
           (rank < COMM_RANKS_MAX && atomic_load(&g->joined[rank]) != 0);
}

static bool fits(const struct group *g, size_t n_bytes, int n_ranks, int n_parts, struct status *st)
{
    if (g->layout != COMM_LAYOUT)
        return status_fail(st, STATUS_UNSUPPORTED, "rank 0 is of another version of inferd");
    if (g->n_parts != (uint32_t)n_parts)
        return status_fail(st, STATUS_BAD_INPUT, "rank 0 wants %u stages, this rank %d", g->n_parts,
                           n_parts);
    if (g->n_ranks != (uint32_t)n_ranks || n_bytes != comm_memory_bytes(n_ranks, n_parts))
        return status_fail(st, STATUS_BAD_INPUT, "rank 0 wants %u ranks, this one %d", g->n_ranks,
                           n_ranks);
    return true;
}

/* NULL with st OK: not yet. */
static struct comm *try_join(const char *path, int rank, int n_ranks, int n_parts,
                             struct status *st)
{
    size_t n_bytes;
    struct group *g = find_group(path, &n_bytes);
    if (g && g->magic == COMM_MAGIC && !is_over(g, rank) && fits(g, n_bytes, n_ranks, n_parts, st))
        return open_end(g, rank, st);
    if (g)
        munmap(g, n_bytes);
    return NULL;
}

struct comm *comm_join(const char *name, int rank, int n_ranks, int n_parts, int64_t wait_ms,
                       struct status *st)
{
    char path[PATH_BYTES];
    struct comm *c = NULL;
    if (rank == 0) {
        struct group *g = make_group(name, n_ranks, n_parts, st);
        return g ? open_end(g, 0, st) : NULL;
    }
    if (!make_path(name, "", path, st))
        return NULL;
    for (int64_t ms = 0; ms < wait_ms; ms += LOOK_MS) {
        c = try_join(path, rank, n_ranks, n_parts, st);
        if (c || st->code != STATUS_OK)
            return c;
        sleep_ms(LOOK_MS);
    }
    status_fail(st, STATUS_DEVICE, "rank 0 did not make group %s in %lld ms", name,
                (long long)wait_ms);
    return NULL;
}
