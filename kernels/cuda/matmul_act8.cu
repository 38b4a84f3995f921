/* matmul_act8.cu - products of schemes that round activations to 8 bits: none yet (weight_has_act8). */
#include "kernels/cuda/matmul_int.h"

void matmul_act8(struct device *d, const struct product *)
{
    cuda_check(d, cudaErrorNotSupported, "a product with 8-bit activations");
}
