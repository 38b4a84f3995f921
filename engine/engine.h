/* engine.h - the seam: what the scheduler knows of whatever runs the model.
 *
 * Three implementations of one interface:
 *   engine_proc   a child process over shared memory (the default: when a device fault
 *                 or a kill takes it, the front stays up and starts it again)
 *   engine_local  the same worker in a thread of this process (tests, debugging)
 *   engine_fake   no model: token = hash(seed, position, all tokens before it), with a
 *                 clock of its own (simulation, front-end benchmarks)
 *
 * The scheduler submits at most engine_depth() steps ahead and reads results in order.
 * The engine knows only steps; the scheduler holds the truth.  Each life of the engine
 * has an epoch: after a death the next life starts with empty slots, tables and cache,
 * and the scheduler sets its sequences again.  A result of an earlier epoch is never
 * delivered.
 *
 *     STARTING --ready--> READY --death, hang, bad record--> DOWN --back-off--> STARTING
 *     DOWN stays DOWN ("given up") after 5 deaths in 10 minutes.
 *
 * poll() makes these transitions, one at a time, so DOWN is always seen between two lives; a
 * result() that finds a bad record and kill() go to DOWN too.  Nothing else changes the state.
 * Back-off: 0, 1, 2, 5, 10, 10, ... seconds, reset after a minute of health.  A hang is a step
 * running longer than the limit for its tokens; the child is then killed with SIGKILL.
 *
 * Thread: all calls from the scheduler thread; engine_fd() is for its poll(2). */
#ifndef ENGINE_ENGINE_H
#define ENGINE_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/clock.h"
#include "base/status.h"
#include "engine/step.h"

enum {
    ENGINE_DEPTH = 2, /* with one stage */
    ENGINE_RANKS_MAX = 16,
    ENGINE_DEPTH_MAX = ENGINE_RANKS_MAX + 1,
    ENGINE_SPLIT_AUTO = -1,
    ENGINE_STALL_MS = 1500,
    ENGINE_STALL_KILL_MS = 15000
};

enum engine_state { ENGINE_STARTING, ENGINE_READY, ENGINE_DOWN };

/* Steps that may be submitted and unanswered: one for each stage to work at, and one that waits
 * before the first. */
static inline int32_t engine_depth(const struct step_limits *l)
{
    return l->n_stages > 1 ? l->n_stages + 1 : ENGINE_DEPTH;
}

/* What a model and its options need; declared here, filled by server/config.c. */
struct engine_options {
    const char *model_path;
    bool random_weights;       /* model_path has a config.json alone: for benchmarks */
    const char *cpu_precision; /* "fast", "exact" */
    const char *cpu_isa;       /* NULL = best */
    const char *kv_dtype;      /* "auto", "f32", "f16", "bf16", "int8", "fp8"; auto = f16, f32 when
                                  exact; on other devices the type of activations */
    const char *device;        /* "auto", "cpu", "cuda"; NULL = auto */
    const char *dtype;         /* of activations on other devices: "auto", "bf16", "f16"; or
                                  "f32": weights, keys and values, too */
    const char *quantize;      /* the layers' matrices, as scheme_parse reads it; NULL, "" and
                                  "none" = as in the file */
    const char *quantize_head; /* embedding and output, likewise */
    const char *quantize_skip; /* parts of names of weights left alone, with commas between */
    int32_t device_index;
    double gpu_memory;         /* share of the device's memory that may be used; 0 = 0.92 */
    int32_t n_threads;         /* of all ranks; 0 = all cores */
    int32_t tensor_parallel;   /* ranks that divide each layer; 0 = 1 */
    int32_t layer_split;       /* stages that divide the layers; 0 = 1; ENGINE_SPLIT_AUTO = the fewest
                                  that fit */
    const char *max_memory;    /* bytes that devices may hold, by rank: "0=20GiB,1=40GiB"; NULL and
                                  "" = all that is free */
    bool no_peer_memory;       /* GPUs of ranks do not write each other's memory: NCCL carries all */
    const char *rank_group;    /* NULL = the ranks are threads; else each is a process, and this is the
                                  name they meet by */
    int32_t rank;              /* with rank_group: which one this process is */
    bool has_local_rank;       /* with rank_group: the launcher says which rank of its machine it is, */
    int32_t local_rank;        /*   and so which device it has, counted from device_index on */
    const char *rank_host;     /* NULL = they share memory; else they meet over TCP where rank 0 is, */
    int32_t rank_port;         /*   at this port, */
    uint64_t rank_secret[2];   /*   and all have this; zeros = none */
    int32_t seqs_max;          /* 0 = 64, or on other devices than the CPU 256 a stage */
    int32_t step_tokens_max;   /* 0 = 512, or 8192 */
    int32_t context_max;       /* 0 = the model's, bounded by the cache */
    int32_t block_tokens;      /* 16 */
    int32_t kv_blocks;         /* 0 = from kv_bytes */
    uint64_t kv_bytes;         /* 0 = default share of free memory */
    int32_t deaths_max;        /* in 10 minutes, then given up; 0 = 5, negative = never give up */
    int32_t backoff_ms_max;    /* longest wait before a restart; 0 = 10000 */
};

/* Known once READY; constant over epochs, or the restart fails.  In the first life n_ranks, device,
 * isa and plan are there before, from when every byte is counted and no weight is read. */
struct engine_facts {
    struct step_limits limits;
    int32_t n_ranks;            /* 1 <=> the model is not divided; in limits.n_stages equal stages */
    uint64_t weight_bytes, kv_bytes, total_bytes; /* of all ranks */
    uint64_t step_weight_bytes; /* that each step reads: all but a table for embedding alone */
    uint64_t load_ms;
    char arch[32];
    char device[8]; /* "cpu", "cuda" */
    char isa[64];   /* what the device is, for people */
    char activations[8], kv_dtype[8]; /* types */
    char plan[4096]; /* the table of plan.h; "" when nothing was planned */
};

struct engine_progress { /* while STARTING */
    uint64_t n_done, n_total; /* weight bytes */
};

struct engine;

struct engine_vtable {
    const char *name;
    enum engine_state (*poll)(struct engine *e, uint64_t now_ns);
    struct step *(*step_room)(struct engine *e); /* where the next step is built; NULL <=> depth */
    void (*submit)(struct engine *e);            /* the step built in step_room */
    const struct step_result *(*result)(struct engine *e); /* oldest unread, checked; or NULL */
    void (*result_done)(struct engine *e);
    int (*fd)(const struct engine *e);           /* readable: poll and result may have news; -1 none */
    int64_t (*wait_ms)(const struct engine *e, uint64_t now_ns); /* poll again within; -1 = no need */
    void (*kill)(struct engine *e, const char *why);       /* scheduler found it sick */
    void (*part)(struct engine *e);  /* no step will come, and this thread ends, and with it a child that
                                        it started: what is to be said goes out now; NULL = nothing */
    void (*close)(struct engine *e); /* ends the child, frees everything */
};

struct engine { /* embedded first in each implementation; readable by the scheduler */
    const struct engine_vtable *vt;
    enum engine_state state;
    uint32_t epoch;     /* 1 for the first life; changes when a new life is READY */
    uint32_t n_deaths;  /* since start */
    bool given_up;      /* DOWN for good: too many deaths, or a failure that a restart cannot mend
                           (`why` says which); the scheduler fails what waits and what runs */
    uint64_t last_step_ns;  /* when the engine last finished a step or was idle (heartbeat) */
    struct engine_facts facts;
    struct engine_progress progress;
    struct status why;  /* of the last death, or why it is given up */
    bool stalled;       /* READY, but its process has not run for ENGINE_STALL_MS (stopped,
                           starved): not ready for new work; killed after ENGINE_STALL_KILL_MS,
                           a rank of a group after 5 s */
    int64_t pid;        /* of the child; 0 when there is none */
};

/* The child is this program again (/proc/self/exe) with the one argument "engine": main() then
 * calls engine_worker_main(), whose result is the exit code.  It inherits three descriptors and
 * only the environment that device libraries need. */
struct engine *engine_proc_open(const struct engine_options *o, const struct clock *clock,
                                struct status *st) MUST_CHECK;
int engine_worker_main(void);

struct engine *engine_local_open(const struct engine_options *o, const struct clock *clock,
                                 struct status *st) MUST_CHECK;

struct engine_fake_options {
    struct step_limits limits;
    uint64_t step_ns;      /* time one step takes, by the clock; 0 = at once */
    uint64_t token_ns;     /* and for each token of it */
    uint64_t slow_ns;      /* added to 1 step in `slow_every`; 0 = never */
    uint32_t slow_every;
    uint64_t start_ns;     /* from STARTING to READY */
    int32_t end_id;        /* an id that ends generation (1 in `end_every` tokens), or -1 */
    uint32_t end_every;
    uint32_t nan_every;    /* 1 in so many samples is ROW_FAILED_NAN; 0 = never */
    bool check_cache;      /* compare each row's whole KV content, not its last token alone */
};
struct engine *engine_fake_open(const struct engine_fake_options *o, const struct clock *clock,
                                struct status *st) MUST_CHECK;
void engine_fake_die(struct engine *e); /* as if the child were killed now */
void engine_fake_hang(struct engine *e);
/* What broke the contract of step.h (a wrong position, a block whose content is another
 * sequence's, ...), or NULL: the fake engine dies of it, as a real one would, and remembers. */
const char *engine_fake_broken(const struct engine *e);
/* What the fake engine generates after `ids`, or -1 when that sample fails with NaN: the model of
 * the simulation's oracle. */
int32_t engine_fake_token(const struct engine_fake_options *o, uint64_t seed,
                          const int32_t *ids, int32_t n);
/* The log-probability it gives to `id` after `ids`. */
float engine_fake_logprob(const int32_t *ids, int32_t n, int32_t id);

#endif
