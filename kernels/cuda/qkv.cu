/* qkv.cu - q, k and v with rope_kv behind them: one kernel where there is one for it, else each
 * op's. */
#include "kernels/cuda/matmul_int.h"
#include "kernels/cuda/rope_kv.cuh"

void cuda_matmul_rope_kv(struct device *d, const struct matmul_args *m,
                         const struct rope_kv_args *r)
{
    const struct rope_job j = rope_job_of(d, r);
    if (matmul_heads(d, m, &j))
        return;
    cuda_matmul(d, m);
    cuda_rope_kv(d, r);
}
