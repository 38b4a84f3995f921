/* operands.h - operands of tensor cores as numbers. */
#ifndef TESTS_CUDASIM_OPERANDS_H
#define TESTS_CUDASIM_OPERANDS_H

#include <stdint.h>
#include <string.h>

#include "tests/cudasim/mma.h"
#include "tests/cudasim/products.h"

extern "C" {
#include "kernels/half.h"
}

namespace sim
{

inline float value_of_half(uint32_t v, enum operand type)
{
    return type == OPERAND_F16 ? f32_from_f16((uint16_t)v) : f32_from_bf16((uint16_t)v);
}

/* A lane's four registers of a[16, 16]. */
inline void take_rows(float_tile *t, const uint32_t m[4], int lane, enum operand type)
{
    for (int i = 0; i < 8; i++) {
        const int row = lane / 4 + i / 2 % 2 * 8, k = i / 4 * 8 + lane % 4 * 2 + i % 2;
        t->a[row][k] = value_of_half(m[i / 2] >> i % 2 * 16, type);
    }
}

} // namespace sim

#endif
