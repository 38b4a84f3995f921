/* matmul_block_skinny_f16.cu - the skinny product of block formats with activations in float16. */
#include "kernels/cuda/matmul_block_skinny.cuh"

block_function *block_kernel_f16(enum dtype format, int row_groups, bool gated)
{
    return block_kernel<__half>(format, row_groups, gated);
}
