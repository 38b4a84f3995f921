/* cooperative_groups.h - in place of the toolkit's: the cluster that a block is in. */
#ifndef TESTS_CUDASIM_COOPERATIVE_GROUPS_H
#define TESTS_CUDASIM_COOPERATIVE_GROUPS_H

#include "tests/cudasim/cluster.h"

namespace cooperative_groups
{

struct cluster_group {
    void barrier_arrive() const
    {
        sim::cluster_arrive();
    }
    void barrier_wait() const
    {
        sim::cluster_wait();
    }
    void sync() const
    {
        barrier_arrive();
        barrier_wait();
    }
    template <class T> T *map_shared_rank(T *p, int rank) const
    {
        const sim::block *own = sim::self->block;
        return static_cast<T *>(own->cluster->block.at(rank)->shared.same(own->shared, p));
    }
};

inline cluster_group this_cluster()
{
    return {};
}

} // namespace cooperative_groups

#endif
