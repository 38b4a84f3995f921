/* stream.h - streams, events and recorded graphs, in which all work is done at once.
 *
 * A stream that records keeps what it is given instead; a graph does it all when it is launched.
 *
 * Thread: a stream's is its owner. */
#ifndef TESTS_CUDASIM_STREAM_H
#define TESTS_CUDASIM_STREAM_H

#include <functional>

#include <cuda_runtime_api.h>

namespace sim
{

/* What a kernel's node does with other parameters; none where it cannot. */
using node_changer = std::function<std::function<void()>(const cudaKernelNodeParams &)>;

/* Does it now, or when the graph that the stream records is launched. */
cudaError_t stream_do(cudaStream_t, std::function<void()>, node_changer = nullptr);

} // namespace sim

#endif
