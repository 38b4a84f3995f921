/* matmul_scheme_sm90_bf16.cu - the wide product of a scheme with activations in bfloat16. */
#include "kernels/cuda/matmul_scheme_sm90.cuh"

void wide_launch_bf16(struct device *d, struct wide_args *a, int expand, int parts,
                    enum scheme_wide_tile tile)
{
    launch_expand<__nv_bfloat16>(d, a, expand, parts, tile);
}
