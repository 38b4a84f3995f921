/* device_warp.h - barriers of a block, and what lanes of a warp ask each other. */
#ifndef TESTS_CUDASIM_DEVICE_WARP_H
#define TESTS_CUDASIM_DEVICE_WARP_H

#include "tests/cudasim/block.h"

inline void __syncthreads()
{
    sim::barrier_come(0, sim::BARRIER_ALL, true, 0);
}

inline int __syncthreads_or(int vote)
{
    return sim::barrier_come(0, sim::BARRIER_ALL, true, vote != 0);
}

inline void __syncwarp(unsigned mask = ~0u)
{
    sim::warp_meet(mask, "__syncwarp", NULL, [](sim::warp *, void *const *, uint32_t) {});
}

namespace sim
{

template <class T> struct shuffled {
    T mine, theirs;
    int from; /* a lane; -1: none, the lane keeps its own */
};

template <class T> void shuffle_all(warp *, void *const *at, uint32_t lanes)
{
    for (int lane = 0; lane < WARP; lane++) {
        if (!(lanes >> lane & 1))
            continue;
        shuffled<T> *const s = static_cast<shuffled<T> *>(at[lane]);
        if (s->from >= 0 && !(lanes >> s->from & 1))
            fail("lane %d asks lane %d, which is not there", lane, s->from);
        s->theirs = s->from < 0 ? s->mine : static_cast<shuffled<T> *>(at[s->from])->mine;
    }
}

template <class T> T shuffle(unsigned mask, T v, int from)
{
    shuffled<T> s = {v, v, from};
    warp_meet(mask, "a shuffle", &s, shuffle_all<T>);
    return s.theirs;
}

struct voted {
    unsigned mine, all;
};

/* RULE(all, one, lane) folds the lanes' in, the lowest first; all is that of RULE::NONE before. */
template <class RULE> void vote_all(warp *, void *const *at, uint32_t lanes)
{
    unsigned all = RULE::NONE;
    for (int lane = 0; lane < WARP; lane++)
        if (lanes >> lane & 1)
            all = RULE::fold(all, static_cast<voted *>(at[lane])->mine, lane);
    for (int lane = 0; lane < WARP; lane++)
        if (lanes >> lane & 1)
            static_cast<voted *>(at[lane])->all = all;
}

template <class RULE> unsigned vote(unsigned mask, unsigned mine)
{
    voted v = {mine, 0};
    warp_meet(mask, RULE::name(), &v, vote_all<RULE>);
    return v.all;
}

struct vote_ballot {
    static const unsigned NONE = 0;
    static const char *name()
    {
        return "a ballot";
    }
    static unsigned fold(unsigned all, unsigned one, int lane)
    {
        return all | (one != 0) << lane;
    }
};

struct vote_add {
    static const unsigned NONE = 0;
    static const char *name()
    {
        return "__reduce_add_sync";
    }
    static unsigned fold(unsigned all, unsigned one, int)
    {
        return all + one;
    }
};

struct vote_max {
    static const unsigned NONE = 0;
    static const char *name()
    {
        return "__reduce_max_sync";
    }
    static unsigned fold(unsigned all, unsigned one, int)
    {
        return one > all ? one : all;
    }
};

struct vote_signed_max {
    static const unsigned NONE = 0x80000000;
    static const char *name()
    {
        return "__reduce_max_sync of int";
    }
    static unsigned fold(unsigned all, unsigned one, int)
    {
        return (int)one > (int)all ? one : all;
    }
};

} // namespace sim

template <class T> T __shfl_sync(unsigned mask, T v, int lane, int width = sim::WARP)
{
    return sim::shuffle(mask, v, (sim::self->lane & ~(width - 1)) | (lane & (width - 1)));
}

template <class T> T __shfl_xor_sync(unsigned mask, T v, int other, int width = sim::WARP)
{
    const int lane = sim::self->lane ^ other;
    return sim::shuffle(mask, v, lane / width == sim::self->lane / width ? lane : -1);
}

template <class T> T __shfl_up_sync(unsigned mask, T v, unsigned by, int width = sim::WARP)
{
    const int within = sim::self->lane % width;
    return sim::shuffle(mask, v, within >= (int)by ? sim::self->lane - (int)by : -1);
}

template <class T> T __shfl_down_sync(unsigned mask, T v, unsigned by, int width = sim::WARP)
{
    const int within = sim::self->lane % width;
    return sim::shuffle(mask, v, within + (int)by < width ? sim::self->lane + (int)by : -1);
}

inline unsigned __ballot_sync(unsigned mask, int vote)
{
    return sim::vote<sim::vote_ballot>(mask, vote != 0);
}

inline int __any_sync(unsigned mask, int vote)
{
    return __ballot_sync(mask, vote) != 0;
}

inline int __all_sync(unsigned mask, int vote)
{
    return __ballot_sync(mask, !vote) == 0;
}

inline unsigned __reduce_add_sync(unsigned mask, unsigned v)
{
    return sim::vote<sim::vote_add>(mask, v);
}

inline int __reduce_add_sync(unsigned mask, int v)
{
    return (int)sim::vote<sim::vote_add>(mask, (unsigned)v);
}

inline unsigned __reduce_max_sync(unsigned mask, unsigned v)
{
    return sim::vote<sim::vote_max>(mask, v);
}

inline int __reduce_max_sync(unsigned mask, int v)
{
    return (int)sim::vote<sim::vote_signed_max>(mask, (unsigned)v);
}

#endif
