/* matmul_scheme_sm90_f16.cu - the wide product of a scheme with activations in float16. */
#include "kernels/cuda/matmul_scheme_sm90.cuh"

void wide_launch_f16(struct device *d, struct wide_args *a, int expand, int parts,
                    enum scheme_wide_tile tile)
{
    launch_expand<__half>(d, a, expand, parts, tile);
}
