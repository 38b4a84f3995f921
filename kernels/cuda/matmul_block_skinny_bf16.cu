/* matmul_block_skinny_bf16.cu - the skinny product of block formats with activations in bfloat16.
 */
#include "kernels/cuda/matmul_block_skinny.cuh"

block_function *block_kernel_bf16(enum dtype format, int row_groups, bool gated)
{
    return block_kernel<__nv_bfloat16>(format, row_groups, gated);
}
