/* config.h - every option of the daemon: one table, one name everywhere.
 *
 * --kv-dtype f16, --kv-dtype=f16, INFERD_KV_DTYPE=f16 and `kv-dtype = f16` in the file are the same
 * option.  Precedence: flag, environment, file (--config, else /etc/inferd.conf when it exists),
 * default.  An unknown name is an error with the nearest name (in the environment, where others
 * write too, a warning); a value out of range is an error with the range.  This is the only file of
 * inferd that reads the environment.
 *
 * Thread: at start. */
#ifndef SERVER_CONFIG_H
#define SERVER_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/log.h"
#include "base/status.h"
#include "engine/engine.h"
#include "scheduler/scheduler.h"
#include "server/server.h"

/* All values are strings or int64_t, as the table names them; the groups below are filled from it.
 */
struct config {
    /* model and engine */
    const char *model, *served_model_name, *weights, *engine;
    const char *cpu_precision, *cpu_isa, *kv_dtype, *device, *dtype, *gpu_memory;
    const char *quantize, *quantize_head, *quantize_skip, *layer_split, *max_memory;
    int64_t n_stages;        /* layer_split as a number, or ENGINE_SPLIT_AUTO */
    double gpu_memory_share; /* gpu_memory as a number */
    int64_t engine_deaths_max, engine_backoff_ms;
    int64_t device_index, threads, tensor_parallel, kv_blocks, kv_memory, block_tokens, max_seqs,
        max_step_tokens, max_context;
    int64_t fake_step_us;
    /* scheduling */
    int64_t prefill_chunk, mixed_step_tokens, queue_max, queue_wait_ms, prefix_cache, peer_memory;
    /* HTTP */
    const char *host, *api_key_file;
    int64_t port, allow_open, max_connections, connections_per_ip, log_requests;
    int64_t header_timeout_ms, body_timeout_ms, idle_timeout_ms, write_timeout_ms, drain_timeout_ms;
    /* request limits */
    int64_t body_max, prompts_max, choices_max, logprobs_max, logit_bias_max, output_tokens_max;
    /* log */
    const char *log_level, *log_format;
    /* ranks that are processes: config_ranks */
    const char *rank_transport, *rank_secret_file;
    int64_t rank_port;     /* of rank 0, once config_ranks has been */
    char rank_group[64];   /* "" = they are threads */
    const char *rank_host; /* of rank 0; NULL = they share memory */
    uint64_t rank_secret[2];
    int64_t rank, local_rank; /* local_rank: of its machine; -1 = the launcher does not say it */

    char *owned[256]; /* texts from the environment and the file */
    int n_owned;
};

/* argv are the arguments after the subcommand; a first argument without dashes is the model.
 * False: st BAD_INPUT says what is wrong.  config_close accepts a zeroed config. */
bool config_read(struct config *c, int argc, char **argv, struct status *st) MUST_CHECK;
void config_close(struct config *c);
/* What torchrun, mpirun or a LeaderWorkerSet says in the environment of the ranks it starts, if one
 * of them did.  BAD_INPUT where options contradict it or would do nothing (a secret where no rank
 * is, or where ranks share memory; a launcher of one rank may have them), or ranks on several
 * machines do not know where rank 0 is. */
bool config_ranks(struct config *c, struct status *st) MUST_CHECK;

enum { CONFIG_VARIABLES_BYTES_MAX = 1 << 16 };

/* A line, with its end, for each INFERD_ variable of the environment that is no option, with the
 * nearest one; the last counts those that lines has no room for.  What Kubernetes sets for Services
 * and what the project's tests set is left out. */
void config_unknown_variables(struct buf *lines);
void config_warn_of_variables(void); /* the same to standard error, of a command without a log */

/* One `name = value` line, for tests and the fuzzer; n bytes, any bytes. */
bool config_parse_text(struct config *c, const char *text, size_t n, struct status *st) MUST_CHECK;
bool config_defaults(struct config *c, struct status *st) MUST_CHECK;

void config_help(struct buf *out);                          /* the options, by group */
void config_print(const struct config *c, struct buf *out); /* as a configuration file */

/* What the modules want. */
void config_engine(const struct config *c, struct engine_options *o);
/* Warns in the log of options that were set and do nothing with the engine's device and ranks. */
void config_tell_idle(const struct config *c, const struct engine_facts *facts);
void config_limits(const struct config *c, struct server_limits *l);
enum log_level config_log_level(const struct config *c);
enum log_format config_log_format(const struct config *c);
const char *config_environment(const char *name); /* NOTIFY_SOCKET and its like; NULL = not set */

#endif
