/* matmul_scheme_skinny_f16.cu - the skinny product of a scheme with activations in float16. */
#include "kernels/cuda/matmul_scheme_skinny.cuh"

scheme_function *scheme_kernel_f16(const struct scheme_layout *l, const struct scheme_choice *c,
                                   bool gated)
{
    return scheme_kernel<__half>(l, c, gated);
}
