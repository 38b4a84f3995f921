/* wgmma.cc - products of a warpgroup, which run beside it until it waits for them.
 *
 * A product is whole when all four warps have issued it, and no warp's wait ends before.  When it
 * runs, at any time from then on, it reads shared memory and writes the registers of all lanes.
 * Matrices in shared memory lie in atoms of 8 rows of 128 bytes; bits 7 to 9 of an address turn its
 * bits 4 to 6. */
#include <string.h>

#include "tests/cudasim/async.h"
#include "tests/cudasim/mma.h"
#include "tests/cudasim/operands.h"

namespace sim
{

namespace
{

enum { WARPS = 4, LANES = WARPS * WARP };

struct product {
    wgmma_args args;
    void *d[LANES];
    uint32_t a[LANES][4];
};

} // namespace

struct warpgroup {
    block *in;
    std::vector<product> under_way; /* the first is number n_run of all */
    size_t n_run;
    size_t n_issued[WARPS];
    std::vector<size_t> group_end[WARPS]; /* of groups not waited for: products in and before it */
    std::vector<thread *> waiting;
};

namespace
{

struct descriptor {
    uint32_t at, lead, stride, wide; /* wide: bytes of an atom's row */

    explicit descriptor(uint64_t v)
        : at((v & 0x3fff) << 4), lead((v >> 16 & 0x3fff) << 4), stride((v >> 32 & 0x3fff) << 4),
          wide(v >> 62 == 3 ? 32 : 128)
    {
        if (v >> 62 != 1 && v >> 62 != 3)
            fail("a matrix descriptor %#llx: want a swizzle of 128 or 32 bytes",
                 (unsigned long long)v);
        if ((stride && stride % (8 * wide) != 0) || (wide == 32 && at % 256 != 0) ||
            (v >> 49 & 7) != 0)
            fail("a matrix descriptor %#llx: atoms are not whole", (unsigned long long)v);
    }
    /* Of the 16 bytes at `byte` (a multiple of 16) of row i of atoms `stride` apart. */
    uint32_t chunk(uint32_t i, uint32_t byte) const
    {
        const uint32_t a = at + i / 8 * stride + i % 8 * wide + byte;
        return a ^ (a >> 3 & (wide - 1) & 0x70);
    }
};

int depth_of(enum operand t)
{
    return t == OPERAND_E4M3 || t == OPERAND_S8 ? 32 : 16;
}

float value_of_e4m3(uint8_t v)
{
    const int exponent = v >> 3 & 15, mantissa = v & 7;
    const float sign = v & 0x80 ? -1.0f : 1.0f;
    if ((v & 0x7f) == 0x7f)
        return __builtin_nanf("");
    return sign * (exponent ? __builtin_ldexpf((float)(8 + mantissa), exponent - 10)
                            : __builtin_ldexpf((float)mantissa, -9));
}

struct e4m3_table {
    float of[256];
    e4m3_table()
    {
        for (int i = 0; i < 256; i++)
            of[i] = value_of_e4m3((uint8_t)i);
    }
};
const e4m3_table e4m3;

/* 16 bytes as numbers, `apart` from each other. */
void widen(float *to, int apart, const char *from, enum operand type)
{
    if (type == OPERAND_E4M3) {
        for (int i = 0; i < 16; i++)
            to[i * apart] = e4m3.of[(uint8_t)from[i]];
        return;
    }
    uint16_t v[8];
    memcpy(v, from, 16);
    if (type == OPERAND_BF16)
        for (int i = 0; i < 8; i++)
            to[i * apart] = f32_from_bf16(v[i]);
    else
        for (int i = 0; i < 8; i++)
            to[i * apart] = f32_from_f16(v[i]);
}

void widen(int32_t *to, int apart, const char *from, enum operand)
{
    for (int i = 0; i < 16; i++)
        to[i * apart] = (int8_t)from[i];
}

/* Row i of a matrix whose rows go along k: value k to to[k * apart]. */
template <class T>
void take_row(T *to, int apart, const block *b, const descriptor &m, int i, enum operand type)
{
    const int values = depth_of(type) / 2; /* in 16 bytes */
    for (int half = 0; half < 2; half++)
        widen(to + half * values * apart, apart,
              b->shared.at(m.chunk((uint32_t)i, (uint32_t)half * 16), 16), type);
}

/* b[k, n] with n along the atoms' rows: 64 columns an atom, `lead` from one to the next. */
void take_turned(float_tile *t, const block *b, const descriptor &m, int n, enum operand type)
{
    for (int k = 0; k < 16; k++)
        for (int column = 0; column < n; column += 8) {
            const uint32_t byte = (uint32_t)(column / 64) * m.lead + (uint32_t)(column % 64) * 2;
            widen(&t->b[k][column], 1, b->shared.at(m.chunk((uint32_t)k, byte), 16), type);
        }
}

void take_registers(float_tile *t, const product &p, int warp)
{
    for (int lane = 0; lane < WARP; lane++)
        take_rows(t, p.a[warp * WARP + lane], lane, p.args.type);
}

/* Bytes of b come with k contiguous. */
void take_turned(byte_tile *, const block *, const descriptor &, int, enum operand)
{
}

void take_registers(byte_tile *t, const product &p, int warp)
{
    for (int lane = 0; lane < WARP; lane++)
        for (int i = 0; i < 16; i++)
            t->a[lane / 4 + i / 4 % 2 * 8][i / 8 * 16 + lane % 4 * 4 + i % 4] =
                (int8_t)(p.a[warp * WARP + lane][i / 4] >> i % 4 * 8);
}

/* f(what a lane has, the same in the tile), of each sum of a warp */
template <class T, class TILE, class F> void each_sum(const product &p, TILE *t, int warp, F f)
{
    for (int i = 0; i < 2 * WARP; i++) {
        const int lane = i / 2, high = i % 2;
        T *const mine = static_cast<T *>(p.d[warp * WARP + lane]) + 2 * high;
        T *const row = &t->d[lane / 4 + 8 * high][lane % 4 * 2];
        for (int j = 0; j < p.args.n / 8; j++) {
            f(mine[4 * j], row[8 * j]);
            f(mine[4 * j + 1], row[8 * j + 1]);
        }
    }
}

template <class T, class TILE> void run_as(const product &p, const block *in)
{
    TILE *const t = own_tile<TILE>();
    const enum operand type = p.args.type;
    if (p.args.b_turned)
        take_turned(t, in, descriptor(p.args.b_at), p.args.n, type);
    else
        for (int c = 0; c < p.args.n; c++)
            take_row(&t->b[0][c], PITCH, in, descriptor(p.args.b_at), c, type);
    for (int warp = 0; warp < WARPS; warp++) {
        if (p.args.a)
            take_registers(t, p, warp);
        else
            for (int r = 0; r < ROWS; r++)
                take_row(t->a[r], 1, in, descriptor(p.args.a_at), warp * ROWS + r, type);
        each_sum<T>(p, t, warp, [&](const T &mine, T &sum) { sum = p.args.add ? mine : 0; });
        multiply(t, p.args.n, depth_of(type));
        each_sum<T>(p, t, warp, [](T &mine, const T &sum) { mine = sum; });
    }
}

void run(const product &p, const block *in)
{
    if (p.args.type == OPERAND_S8)
        run_as<int32_t, byte_tile>(p, in);
    else
        run_as<float, float_tile>(p, in);
}

size_t count_whole(const warpgroup *g)
{
    size_t n = g->n_issued[0];
    for (size_t issued : g->n_issued)
        n = issued < n ? issued : n;
    return n;
}

/* Up to number `end`. */
void run_until(warpgroup *g, size_t end)
{
    if (end <= g->n_run)
        return;
    const size_t n = end - g->n_run;
    for (size_t i = 0; i < n; i++)
        run(g->under_way[i], g->in);
    g->under_way.erase(g->under_way.begin(), g->under_way.begin() + (ptrdiff_t)n);
    g->n_run = end;
}

int number_of(const warp *w)
{
    return w->lane[0]->number / WARP % WARPS;
}

/* The product that this warp issues next: another warp may have before. */
product *next_product(warpgroup *g, int number, const wgmma_args &a)
{
    const size_t i = g->n_issued[number]++ - g->n_run;
    if (i == g->under_way.size()) {
        g->under_way.push_back({});
        g->under_way.back().args = a;
    }
    product *const p = &g->under_way[i];
    if (p->args.b_at != a.b_at || p->args.add != a.add || p->args.n != a.n ||
        (!a.a && p->args.a_at != a.a_at))
        fail("threads of a warpgroup give wgmma different operands");
    return p;
}

void issue_all(warp *w, void *const *at, uint32_t lanes)
{
    warpgroup *const g = w->group;
    const int first = number_of(w) * WARP;
    if (lanes != ~0u)
        fail("wgmma by lanes %#x of a warp", lanes);
    product *const p = next_product(g, number_of(w), *static_cast<const wgmma_args *>(at[0]));
    for (int lane = 0; lane < WARP; lane++) {
        const wgmma_args &a = *static_cast<const wgmma_args *>(at[lane]);
        p->d[first + lane] = a.d;
        if (a.a)
            memcpy(p->a[first + lane], a.a, sizeof p->a[first + lane]);
    }
    if (g->in->now())
        run_until(g, count_whole(g));
    for (thread *t : g->waiting)
        thread_wake(t);
    g->waiting.clear();
}

void commit_all(warp *w, void *const *, uint32_t)
{
    w->group->group_end[number_of(w)].push_back(w->group->n_issued[number_of(w)]);
}

/* Groups before the last `pending` are waited for: the number behind their last product. */
size_t take_groups(warp *w, size_t pending)
{
    std::vector<size_t> *const groups = &w->group->group_end[number_of(w)];
    if (groups->size() <= pending)
        return 0;
    const auto last = groups->end() - (ptrdiff_t)pending - 1;
    const size_t end = *last;
    groups->erase(groups->begin(), last + 1);
    return end;
}

struct waited {
    int pending;
    size_t end;
};

void wait_all(warp *w, void *const *at, uint32_t)
{
    const size_t end = take_groups(w, (size_t) static_cast<waited *>(at[0])->pending);
    for (int lane = 0; lane < WARP; lane++)
        static_cast<waited *>(at[lane])->end = end;
}

} // namespace

void wgmma(const wgmma_args &a)
{
    warp_meet(~0u, "wgmma", const_cast<wgmma_args *>(&a), issue_all);
}

void wgmma_commit_group()
{
    warp_meet(~0u, "wgmma.commit_group", NULL, commit_all);
}

void wgmma_wait_group(int pending)
{
    warpgroup *const g = self->warp->group;
    waited w = {pending, 0};
    warp_meet(~0u, "wgmma.wait_group", &w, wait_all);
    while (count_whole(g) < w.end) {
        g->waiting.push_back(self);
        thread_wait("wgmma of the other warps");
    }
    run_until(g, w.end);
}

void wgmma_begin(block *b)
{
    for (size_t i = 0; i < b->warps.size(); i++) {
        if (i / WARPS == b->warpgroups.size())
            b->warpgroups.emplace_back(new warpgroup);
        b->warps[i].group = b->warpgroups[i / WARPS].get();
        *b->warps[i].group = {};
        b->warps[i].group->in = b;
    }
}

void wgmma_check_end(const block *b)
{
    for (size_t i = 0; i < b->warps.size(); i += WARPS)
        if (!b->warps[i].group->under_way.empty())
            fail("a block ended before its wgmma did, or not all warps of a warpgroup issued it");
}

} // namespace sim
