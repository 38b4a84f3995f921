/* cuda_host.h - the host's part of a CUDA device: streams, stages, results, recorded graphs.
 *
 * Thread: the device's. */
#ifndef KERNELS_CUDA_CUDA_HOST_H
#define KERNELS_CUDA_CUDA_HOST_H

#include "kernels/cuda/stage.h"

struct loader;

enum { GRAPHS_MAX = 1024 };

struct cuda_flight { /* a step between step_begin and step_wait */
    int n_heads;
    struct sample_out *out; /* pinned, [step_heads_max]; the device writes it */
    cudaEvent_t done;
};

struct cuda_graph { /* a step of a shape, recorded */
    cudaGraph_t recorded;
    cudaGraphExec_t exec;  /* NULL <=> there is none */
    cudaGraphNode_t first; /* of `recorded`: spreads the step, and changes with it */
};

struct cuda_host {
    cudaStream_t copies; /* steps come over on it while the step before runs */
    struct stage stage[STAGES];
    struct cuda_flight flight[STAGES];
    uint64_t n_begun, n_waited; /* steps; the one in hand is n_begun - 1 */
    struct cuda_graph graph[GRAPHS_MAX]; /* by shape */
    uint64_t recording;                  /* the shape, or 0 */
    uint64_t short_until_ns;             /* memory for graphs was short: not asked again before */
    void **mem;                          /* [n_mem] what mem_take gave */
    int n_mem, mem_max;
    double memory_share;
    char variant[96];
    struct loader *loader; /* weights on their way; NULL after weights_done */
};

/* weights.cu */
size_t cuda_weight_bytes(const struct device *, const struct tensor *);
void cuda_weight_put(struct device *, struct tensor *, const struct weight_source *);
bool cuda_weights_done(struct device *, struct status *st);
void cuda_loader_close(struct loader *);

/* rates.cu */
bool cuda_rates(struct device *, double *copy_bytes_s, double *matmul_flops, struct status *st);

/* vendor.cu */
extern const struct vendor_ops cuda_vendor;

#endif
