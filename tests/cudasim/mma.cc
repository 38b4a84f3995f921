/* mma.cc - fragments in registers: matrices of shared memory, and mma.sync. */
#include "tests/cudasim/mma.h"

#include <string.h>

#include "tests/cudasim/block.h"
#include "tests/cudasim/operands.h"
#include "tests/cudasim/products.h"

namespace sim
{

namespace
{

struct matrix_args {
    uint32_t *m;
    uint32_t at;
    bool turned;
};

struct matrix { /* 8 x 8 values */
    uint16_t v[8][8];
};

const matrix_args &args_of(void *const *at, int lane)
{
    return *static_cast<const matrix_args *>(at[lane]);
}

/* Lane 8i + r has the address of row r of matrix i. */
char *row_at(warp *w, void *const *at, int i, int r)
{
    const uint32_t address = args_of(at, 8 * i + r).at;
    if (address % 16 != 0)
        fail("a row of a matrix at %#x, which is no multiple of 16", address);
    return w->lane[0]->block->shared.at(address, 16);
}

uint16_t *value_of(matrix *m, int lane, int which, bool turned)
{
    const int row = lane / 4, column = lane % 4 * 2 + which;
    return turned ? &m->v[column][row] : &m->v[row][column];
}

void load_all(warp *w, void *const *at, uint32_t)
{
    for (int i = 0; i < 4; i++) {
        matrix m;
        for (int r = 0; r < 8; r++)
            memcpy(m.v[r], row_at(w, at, i, r), 16);
        for (int lane = 0; lane < WARP; lane++) {
            const matrix_args &a = args_of(at, lane);
            a.m[i] = *value_of(&m, lane, 0, a.turned) | (uint32_t)*value_of(&m, lane, 1, a.turned)
                                                            << 16;
        }
    }
}

void store_all(warp *w, void *const *at, uint32_t)
{
    for (int i = 0; i < 4; i++) {
        matrix m;
        for (int lane = 0; lane < WARP; lane++) {
            const matrix_args &a = args_of(at, lane);
            *value_of(&m, lane, 0, a.turned) = (uint16_t)a.m[i];
            *value_of(&m, lane, 1, a.turned) = (uint16_t)(a.m[i] >> 16);
        }
        for (int r = 0; r < 8; r++)
            memcpy(row_at(w, at, i, r), m.v[r], 16);
    }
}

void turn_all(warp *, void *const *at, uint32_t)
{
    matrix m;
    for (int lane = 0; lane < WARP; lane++)
        for (int which = 0; which < 2; which++)
            *value_of(&m, lane, which, false) =
                (uint16_t)(*static_cast<const uint32_t *>(at[lane]) >> 16 * which);
    for (int lane = 0; lane < WARP; lane++)
        *static_cast<uint32_t *>(at[lane]) = *value_of(&m, lane, 0, true) |
                                             (uint32_t)*value_of(&m, lane, 1, true) << 16;
}

struct mma_s8_args {
    int32_t *d;
    const uint32_t *a, *b;
};

void mma_s8_all(warp *, void *const *at, uint32_t)
{
    int8_t a[16][32], b[32][8];
    for (int lane = 0; lane < WARP; lane++) {
        const mma_s8_args &l = *static_cast<const mma_s8_args *>(at[lane]);
        const int g = lane / 4, t = lane % 4;
        for (int i = 0; i < 4; i++)
            for (int byte = 0; byte < 4; byte++)
                a[g + i % 2 * 8][i / 2 * 16 + 4 * t + byte] = (int8_t)(l.a[i] >> 8 * byte);
        for (int i = 0; i < 2; i++)
            for (int byte = 0; byte < 4; byte++)
                b[i * 16 + 4 * t + byte][g] = (int8_t)(l.b[i] >> 8 * byte);
    }
    for (int lane = 0; lane < WARP; lane++)
        for (int i = 0; i < 4; i++)
            for (int k = 0; k < 32; k++)
                static_cast<const mma_s8_args *>(at[lane])->d[i] +=
                    a[lane / 4 + i / 2 * 8][k] * b[k][lane % 4 * 2 + i % 2];
}

struct mma_args {
    float *d;
    const uint32_t *a, *b;
    enum operand type;
};

/* d[i] of a lane. */
float *sum_at(float_tile *t, int lane, int i)
{
    return &t->d[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
}

void mma_all(warp *, void *const *at, uint32_t)
{
    float_tile *const t = own_tile<float_tile>();
    for (int lane = 0; lane < WARP; lane++) {
        const mma_args &l = *static_cast<const mma_args *>(at[lane]);
        take_rows(t, l.a, lane, l.type);
        for (int i = 0; i < 4; i++) {
            const int k = i / 2 * 8 + lane % 4 * 2 + i % 2;
            t->b[k][lane / 4] = value_of_half(l.b[i / 2] >> i % 2 * 16, l.type);
        }
        for (int i = 0; i < 4; i++)
            *sum_at(t, lane, i) = l.d[i];
    }
    multiply(t, 8, 16);
    for (int lane = 0; lane < WARP; lane++)
        for (int i = 0; i < 4; i++)
            static_cast<const mma_args *>(at[lane])->d[i] = *sum_at(t, lane, i);
}

} // namespace

void ldmatrix(uint32_t m[4], uint32_t at, bool turned)
{
    matrix_args a = {m, at, turned};
    warp_meet(~0u, "ldmatrix", &a, load_all);
}

void stmatrix(uint32_t at, const uint32_t m[4], bool turned)
{
    matrix_args a = {const_cast<uint32_t *>(m), at, turned};
    warp_meet(~0u, "stmatrix", &a, store_all);
}

uint32_t movmatrix(uint32_t two)
{
    warp_meet(~0u, "movmatrix", &two, turn_all);
    return two;
}

void mma_s8(int32_t d[4], const uint32_t a[4], const uint32_t b[2])
{
    mma_s8_args args = {d, a, b};
    warp_meet(~0u, "mma.sync", &args, mma_s8_all);
}

void mma(float d[4], const uint32_t a[4], const uint32_t b[2], enum operand type)
{
    mma_args args = {d, a, b, type};
    warp_meet(~0u, "mma.sync", &args, mma_all);
}

} // namespace sim
