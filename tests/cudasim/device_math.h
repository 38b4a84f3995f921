/* device_math.h - CUDA's arithmetic by the host's.
 *
 * What CUDA defines to the bit is so here.  Its approximations (__expf, __fdividef, rsqrtf and so
 * on) are the host's functions, which differ in last bits.  The host's compiler must not contract.
 */
#ifndef TESTS_CUDASIM_DEVICE_MATH_H
#define TESTS_CUDASIM_DEVICE_MATH_H

#include <limits.h>

inline float __fadd_rn(float a, float b)
{
    return a + b;
}
inline float __fsub_rn(float a, float b)
{
    return a - b;
}
inline float __fmul_rn(float a, float b)
{
    return a * b;
}
inline float __fdiv_rn(float a, float b)
{
    return a / b;
}
inline float __frcp_rn(float a)
{
    return 1.0f / a;
}
inline float __fsqrt_rn(float a)
{
    return sqrtf(a);
}
inline float __fmaf_rn(float a, float b, float c)
{
    return fmaf(a, b, c);
}

inline float __fdividef(float a, float b)
{
    return a / b;
}
inline float __expf(float a)
{
    return exp2f(a * 1.4426950408889634f); /* as exp2_approx, of which it is made */
}
inline float rsqrtf(float a)
{
    return 1.0f / sqrtf(a);
}

inline void sincospif(float a, float *s, float *c)
{
    const double turn = 3.14159265358979323846 * fmod((double)a, 2.0);
    *s = (float)sin(turn);
    *c = (float)cos(turn);
}

/* ---- bits ---- */

inline float __uint_as_float(unsigned v)
{
    float f;
    memcpy(&f, &v, sizeof f);
    return f;
}

inline unsigned __float_as_uint(float f)
{
    unsigned v;
    memcpy(&v, &f, sizeof v);
    return v;
}

inline float __int_as_float(int v)
{
    return __uint_as_float((unsigned)v);
}
inline int __float_as_int(float f)
{
    return (int)__float_as_uint(f);
}
inline int __ffs(int v)
{
    return __builtin_ffs(v);
}
inline int __popc(unsigned v)
{
    return __builtin_popcount(v);
}
inline int __clz(int v)
{
    return v ? __builtin_clz((unsigned)v) : 32;
}

/* Byte i of the result is byte (nibble i of `select`, its lowest 3 bits) of b:a. */
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned select)
{
    const uint64_t both = (uint64_t)b << 32 | a;
    unsigned r = 0;
    for (int i = 0; i < 4; i++)
        r |= (unsigned)(both >> (select >> 4 * i & 7) * 8 & 0xff) << 8 * i;
    return r;
}

/* The larger of each two halves. */
inline unsigned __vmaxu2(unsigned a, unsigned b)
{
    const unsigned low = (a & 0xffff) > (b & 0xffff) ? a & 0xffff : b & 0xffff;
    const unsigned high = a >> 16 > b >> 16 ? a >> 16 : b >> 16;
    return low | high << 16;
}

/* 0xff in each byte where they differ. */
inline unsigned __vcmpne4(unsigned a, unsigned b)
{
    unsigned r = 0;
    for (int i = 0; i < 32; i += 8)
        r |= ((a ^ b) >> i & 0xff ? 0xffu : 0) << i;
    return r;
}

/* ---- to integers: NaN is 0, what does not fit the nearest that does ---- */

inline int sim_saturated(float f)
{
    return f != f ? 0 : f >= 0x1p31f ? INT_MAX : f < -0x1p31f ? INT_MIN : (int)f;
}

inline int __float2int_rn(float f)
{
    return sim_saturated(rintf(f));
}
inline int __float2int_rz(float f)
{
    return sim_saturated(truncf(f));
}
inline unsigned long long __float2ull_rz(float f)
{
    return !(f >= 1) ? 0 : f >= 0x1p64f ? ULLONG_MAX : (unsigned long long)f;
}

/* ---- min and max, as CUDA overloads them ---- */

inline int min(int a, int b)
{
    return a < b ? a : b;
}
inline int max(int a, int b)
{
    return a > b ? a : b;
}
inline unsigned min(unsigned a, unsigned b)
{
    return a < b ? a : b;
}
inline unsigned max(unsigned a, unsigned b)
{
    return a > b ? a : b;
}
inline unsigned min(int a, unsigned b)
{
    return min((unsigned)a, b);
}
inline unsigned min(unsigned a, int b)
{
    return min(a, (unsigned)b);
}
inline unsigned max(int a, unsigned b)
{
    return max((unsigned)a, b);
}
inline unsigned max(unsigned a, int b)
{
    return max(a, (unsigned)b);
}
inline long min(long a, long b)
{
    return a < b ? a : b;
}
inline long max(long a, long b)
{
    return a > b ? a : b;
}
inline unsigned long min(unsigned long a, unsigned long b)
{
    return a < b ? a : b;
}
inline unsigned long max(unsigned long a, unsigned long b)
{
    return a > b ? a : b;
}
inline float min(float a, float b)
{
    return fminf(a, b);
}
inline float max(float a, float b)
{
    return fmaxf(a, b);
}
inline double min(double a, double b)
{
    return fmin(a, b);
}
inline double max(double a, double b)
{
    return fmax(a, b);
}

#endif
