/* mma.h - ldmatrix, stmatrix, mma.sync and wgmma: which lane holds which part of a matrix.
 *
 * With g = lane / 4 and t = lane % 4: of an 8 x 8 matrix of 16-bit values a lane holds row g at 2t
 * and 2t + 1; a[16, 16] is four of those, d[16, 8] has rows g and g + 8 at columns 2t and 2t + 1.
 *
 * Thread: the block's; all lanes of a warp call these together. */
#ifndef TESTS_CUDASIM_MMA_H
#define TESTS_CUDASIM_MMA_H

#include <stdint.h>

namespace sim
{

enum operand { OPERAND_BF16, OPERAND_F16, OPERAND_E4M3, OPERAND_S8 };

void ldmatrix(uint32_t m[4], uint32_t at, bool turned);
void stmatrix(uint32_t at, const uint32_t m[4], bool turned);
/* Rows become columns. */
uint32_t movmatrix(uint32_t two);
/* d[16, 8] += a[16, 16] b[16, 8] */
void mma(float d[4], const uint32_t a[4], const uint32_t b[2], enum operand);
/* d[16, 8] += a[16, 32] b[32, 8] of signed bytes: a register has k 4t .. 4t + 3, or those 16 behind. */
void mma_s8(int32_t d[4], const uint32_t a[4], const uint32_t b[2]);

struct wgmma_args { /* d[64, n] = (add ? d : 0) + a b; 16 rows a warp */
    enum operand type;
    int n;
    void *d;             /* f32, or s32 of s8 */
    const uint32_t *a;   /* four registers; NULL: in shared memory */
    uint64_t a_at, b_at; /* descriptors */
    bool add;
    bool b_turned; /* n is contiguous, not k */
};

/* Some time from now, after those before it. */
void wgmma(const wgmma_args &);
void wgmma_commit_group();
void wgmma_wait_group(int pending);

} // namespace sim

#endif
