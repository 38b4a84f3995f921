/* matmul_scheme_skinny_bf16.cu - the skinny product of a scheme with activations in bfloat16. */
#include "kernels/cuda/matmul_scheme_skinny.cuh"

scheme_function *scheme_kernel_bf16(const struct scheme_layout *l, const struct scheme_choice *c,
                                    bool gated)
{
    return scheme_kernel<__nv_bfloat16>(l, c, gated);
}
