/* config_ranks.c - which rank this process is, and how it finds the others: launchers' variables.
 */
#include <nettle/sha2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/config.h"
#include "server/private_file.h"

enum { PORT_DEFAULT = 29500, SECRET_BYTES_MIN = 16 };

/* NULL = the launcher does not say it. */
struct launcher {
    const char *rank, *size;
    const char *here;  /* how many of them are on this machine */
    const char *local; /* which of those this one is */
    const char *host;  /* of rank 0 */
};

static const struct launcher launchers[] = {
    {"RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"}, /* torchrun */
    {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE",
     "OMPI_COMM_WORLD_LOCAL_RANK", "MASTER_ADDR"},
    {"LWS_WORKER_INDEX", "LWS_GROUP_SIZE", NULL, NULL, "LWS_LEADER_ADDRESS"},
};
enum { N_LAUNCHERS = sizeof launchers / sizeof *launchers };

/* 0 when it is not set. */
static bool read_count(const char *name, int64_t max, int64_t *out, struct status *st)
{
    const char *text = name ? config_environment(name) : NULL;
    char *end;
    *out = text ? strtoll(text, &end, 10) : 0;
    return !text || (*text && !*end && *out >= 0 && *out <= max) ||
           status_fail(st, STATUS_BAD_INPUT,
                       "environment variable %s: \"%.40s\" is not a number from 0 to %lld", name,
                       text, (long long)max);
}

/* Which rank of this machine it is; of `here` where that is known, else of all. */
static bool read_local(struct config *c, const struct launcher *l, int64_t size, int64_t here,
                       struct status *st)
{
    const bool is_told = l->local && config_environment(l->local);
    const int64_t n = here ? here : size;
    if (!read_count(l->local, n - 1, &c->local_rank, st))
        return false;
    if (!is_told)
        c->local_rank = -1;
    return true;
}

/* The last one when there is none. */
static const struct launcher *find_launcher(void)
{
    int i = 0;
    while (i < N_LAUNCHERS - 1 &&
           !(config_environment(launchers[i].rank) && config_environment(launchers[i].size)))
        i++;
    return &launchers[i];
}

/* The ranks of one start have a port or a namespace for themselves. */
static void name_group(struct config *c)
{
    const char *port = config_environment("MASTER_PORT");
    const char *space = config_environment("PMIX_NAMESPACE");
    const char *name = port ? port : space ? space : "world";
    snprintf(c->rank_group, sizeof c->rank_group, "%s%.48s", port ? "port-" : "", name);
    for (char *s = c->rank_group; *s; s++)
        if (!(*s >= '0' && *s <= '9') && !(*s >= 'a' && *s <= 'z') && !(*s >= 'A' && *s <= 'Z'))
            *s = '-';
}

static bool is_loopback(const char *host)
{
    return strncmp(host, "127.", 4) == 0 || strcmp(host, "::1") == 0 ||
           strcmp(host, "localhost") == 0;
}

/* torchrun's agent keeps a store of its own at MASTER_PORT. */
static bool choose_port(struct config *c, struct status *st)
{
    const char *agent = config_environment("TORCHELASTIC_USE_AGENT_STORE");
    const bool is_taken = agent && strcmp(agent, "True") == 0;
    int64_t master;
    if (c->rank_port != 0)
        return true;
    if (!read_count("MASTER_PORT", 65534, &master, st))
        return false;
    c->rank_port = (master ? master : PORT_DEFAULT) + is_taken;
    return true;
}

static bool read_secret(struct config *c, struct status *st)
{
    struct sha256_ctx ctx;
    size_t n = 0;
    if (!c->rank_secret_file[0])
        return true;
    char *text = private_file_read(c->rank_secret_file, &n, st);
    while (text && n > 0 && (text[n - 1] == '\n' || text[n - 1] == '\r'))
        n--;
    if (text && n < SECRET_BYTES_MIN)
        status_fail(st, STATUS_BAD_INPUT, "%zu bytes, want at least %d", n, SECRET_BYTES_MIN);
    if (text && st->code == STATUS_OK) {
        sha256_init(&ctx);
        sha256_update(&ctx, n, (const uint8_t *)text);
        sha256_digest(&ctx, sizeof c->rank_secret, (uint8_t *)c->rank_secret);
    }
    free(text);
    return st->code == STATUS_OK || status_wrap(st, "rank-secret-file %s", c->rank_secret_file);
}

/* Options of ranks that were set. */
static const char *find_set(const struct config *c, bool with_transport)
{
    return c->rank_secret_file[0]                          ? "rank-secret-file"
           : c->rank_port != 0                             ? "rank-port"
           : with_transport && c->rank_transport[1] != 'u' ? "rank-transport"
                                                           : NULL;
}

/* What is about other ranks must not be there for nothing: a secret would seem to guard something.
 * But a launcher of one may have the options of more: it says that there are no others. */
static bool refuse_alone(const struct config *c, struct status *st)
{
    const char *name = find_set(c, true);
    return !name || status_fail(st, STATUS_BAD_INPUT,
                                "%s: is for a rank that a launcher started; want RANK and "
                                "WORLD_SIZE (1 or more), or "
                                "those of mpirun or a LeaderWorkerSet, in the environment",
                                name);
}

/* One rank, as l says: a WORLD_SIZE that was left from elsewhere would make each rank of mpirun a
 * server alone. */
static bool check_only(const struct launcher *l, struct status *st)
{
    for (int i = 0; i < N_LAUNCHERS; i++) {
        int64_t size;
        if (!read_count(launchers[i].size, ENGINE_RANKS_MAX, &size, st))
            return false;
        if (size > 1)
            return status_fail(st, STATUS_BAD_INPUT,
                               "%s says that this is the only rank, and %s that it is one of %lld",
                               l->size, launchers[i].size, (long long)size);
    }
    return true;
}

static bool refuse_shared(const struct config *c, struct status *st)
{
    const char *name = find_set(c, false);
    return !name || status_fail(st, STATUS_BAD_INPUT,
                                "%s: is for ranks that speak over TCP, and these share memory%s; "
                                "want rank-transport socket",
                                name, c->rank_transport[1] == 'u' ? " (rank-transport auto)" : "");
}

/* Memory, or where to meet. */
static bool choose_transport(struct config *c, const struct launcher *l, int64_t size, int64_t here,
                             struct status *st)
{
    const char *host = config_environment(l->host);
    const bool is_spread = here ? here < size : host && !is_loopback(host);
    const char mode = c->rank_transport[1]; /* aUto, sHared, sOcket */
    if (mode == 'h' && here && is_spread)
        return status_fail(st, STATUS_BAD_INPUT,
                           "rank-transport shared: %lld of %lld ranks are on this machine",
                           (long long)here, (long long)size);
    if (mode == 'h' || (mode == 'u' && !is_spread))
        return refuse_shared(c, st);
    if (!host && is_spread)
        return status_fail(
            st, STATUS_BAD_INPUT,
            "ranks on several machines: %lld of %lld are on this one; want %s in the "
            "environment, the address of rank 0",
            (long long)here, (long long)size, l->host);
    c->rank_host = host ? host : "127.0.0.1";
    return choose_port(c, st) && read_secret(c, st);
}

/* So many ranks make the stages that were asked for, and divide each layer. */
static bool share_ranks(struct config *c, int64_t size, const char *by, struct status *st)
{
    const bool is_auto = c->n_stages == ENGINE_SPLIT_AUTO;
    if (is_auto)
        c->n_stages = size / c->tensor_parallel;
    else if (c->tensor_parallel == 1)
        c->tensor_parallel = size / c->n_stages;
    if (c->n_stages * c->tensor_parallel == size && c->n_stages > 0)
        return true;
    if (!is_auto && c->n_stages == 1)
        return status_fail(st, STATUS_BAD_INPUT, "tensor-parallel is %lld, and %s says %lld",
                           (long long)c->tensor_parallel, by, (long long)size);
    return status_fail(st, STATUS_BAD_INPUT,
                       "layer-split is %s, tensor-parallel %lld, and %s says %lld", c->layer_split,
                       (long long)c->tensor_parallel, by, (long long)size);
}

bool config_ranks(struct config *c, struct status *st)
{
    const struct launcher *l = find_launcher();
    int64_t rank, size, here;
    if (!read_count(l->size, ENGINE_RANKS_MAX, &size, st) ||
        !read_count(l->rank, size, &rank, st) || !read_count(l->here, size, &here, st))
        return false;
    if (size == 0)
        return refuse_alone(c, st);
    if (rank == size)
        return status_fail(st, STATUS_BAD_INPUT, "rank %lld is not one of %lld", (long long)rank,
                           (long long)size);
    if (size == 1)
        return check_only(l, st);
    if (c->engine[0] != 'p')
        return status_fail(st, STATUS_UNSUPPORTED,
                           "engine: want process for a rank of several, as %s says, found %s",
                           l->size, c->engine);
    if (!read_local(c, l, size, here, st) || !share_ranks(c, size, l->size, st))
        return false;
    c->rank = rank;
    name_group(c);
    return choose_transport(c, l, size, here, st);
}
