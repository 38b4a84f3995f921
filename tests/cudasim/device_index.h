/* device_index.h - threadIdx and its like: objects whose members ask the thread that runs.
 *
 * Objects and no macros, since the runtime's structures have members of these names. */
#ifndef TESTS_CUDASIM_DEVICE_INDEX_H
#define TESTS_CUDASIM_DEVICE_INDEX_H

#include "tests/cudasim/block.h"

namespace sim
{

template <class OF> struct asked_index {
    struct {
        operator unsigned() const
        {
            return OF::get().x;
        }
    } x;
    struct {
        operator unsigned() const
        {
            return OF::get().y;
        }
    } y;
    struct {
        operator unsigned() const
        {
            return OF::get().z;
        }
    } z;
};

struct of_thread {
    static const uint3 &get()
    {
        return self->index;
    }
};

struct of_block {
    static const uint3 &get()
    {
        return self->block->index;
    }
};

struct of_size {
    static const dim3 &get()
    {
        return self->block->size;
    }
};

struct of_grid {
    static const dim3 &get()
    {
        return self->block->grid;
    }
};

} // namespace sim

static const sim::asked_index<sim::of_thread> threadIdx = {};
static const sim::asked_index<sim::of_block> blockIdx = {};
static const sim::asked_index<sim::of_size> blockDim = {};
static const sim::asked_index<sim::of_grid> gridDim = {};

#endif
