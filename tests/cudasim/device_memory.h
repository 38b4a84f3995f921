/* device_memory.h - loads with a hint, atomics, fences.
 *
 * Blocks of a grid run on several threads of the host, so atomics are the host's. */
#ifndef TESTS_CUDASIM_DEVICE_MEMORY_H
#define TESTS_CUDASIM_DEVICE_MEMORY_H

#include <type_traits>

template <class T> T __ldg(const T *p)
{
    return *p;
}

template <class T> T __ldcg(const T *p)
{
    return *p;
}

template <class T> T __ldcs(const T *p)
{
    return *p;
}

inline void __threadfence()
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

inline void __threadfence_system()
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

[[noreturn]] inline void __trap()
{
    sim::fail("a trap");
}

template <class T> T atomicAdd(T *p, std::common_type_t<T> v)
{
    return __atomic_fetch_add(p, v, __ATOMIC_RELAXED);
}

template <class T> T atomicOr(T *p, std::common_type_t<T> v)
{
    return __atomic_fetch_or(p, v, __ATOMIC_RELAXED);
}

template <class T> T atomicCAS(T *p, std::common_type_t<T> old, std::common_type_t<T> v)
{
    __atomic_compare_exchange_n(p, &old, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    return old;
}

/* 0 behind `last`. */
inline unsigned atomicInc(unsigned *p, unsigned last)
{
    unsigned old = __atomic_load_n(p, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(p, &old, old >= last ? 0 : old + 1, false, __ATOMIC_RELAXED,
                                        __ATOMIC_RELAXED)) {
    }
    return old;
}

#endif
