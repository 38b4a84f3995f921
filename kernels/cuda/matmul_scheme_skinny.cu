/* matmul_scheme_skinny.cu - products of few rows with weights of a scheme. */
#include "kernels/cuda/matmul_int.h"

bool matmul_scheme_fuses_norm(const struct device *, const struct product *)
{
    return false;
}

void matmul_scheme_skinny(struct device *d, const struct product *)
{
    cuda_check(d, cudaErrorNotSupported, "a product with weights of a scheme");
}
