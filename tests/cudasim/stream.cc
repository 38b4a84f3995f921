/* stream.cc - the runtime's functions for streams, events and graphs. */
#include "tests/cudasim/stream.h"

#include <time.h>

#include <deque>
#include <vector>

enum { GRAPH_BYTES = 2 << 20 }; /* that one to be run takes of the device */

struct CUgraphNode_st {
    size_t at; /* in its graph */
    std::function<void()> run;
    sim::node_changer change;
};

struct CUgraph_st {
    std::deque<CUgraphNode_st> nodes; /* each follows the one before; they stay where they are */
};

struct CUgraphExec_st {
    std::vector<CUgraphNode_st> nodes;
};

struct CUstream_st {
    cudaGraph_t recording; /* NULL: it does what it is given */
};

struct CUevent_st {
    timespec at;
};

namespace sim
{

cudaError_t stream_do(cudaStream_t stream, std::function<void()> op, node_changer change)
{
    if (stream && stream->recording) {
        std::deque<CUgraphNode_st> &nodes = stream->recording->nodes;
        nodes.push_back({nodes.size(), std::move(op), std::move(change)});
    } else {
        op();
    }
    return cudaSuccess;
}

} // namespace sim

extern "C" {

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned)
{
    *s = new CUstream_st();
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t s)
{
    delete s;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t)
{
    return cudaSuccess;
}

cudaError_t cudaStreamQuery(cudaStream_t)
{
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned)
{
    return cudaSuccess;
}

cudaError_t cudaStreamBeginCaptureToGraph(cudaStream_t s, cudaGraph_t graph,
                                          const cudaGraphNode_t *, const cudaGraphEdgeData *,
                                          size_t n_before, cudaStreamCaptureMode)
{
    if (s->recording || n_before > 0)
        return cudaErrorIllegalState;
    s->recording = graph;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *graph)
{
    *graph = s->recording;
    s->recording = NULL;
    return *graph ? cudaSuccess : cudaErrorIllegalState;
}

cudaError_t cudaGraphCreate(cudaGraph_t *graph, unsigned)
{
    *graph = new CUgraph_st();
    return cudaSuccess;
}

cudaError_t cudaGraphGetRootNodes(cudaGraph_t graph, cudaGraphNode_t *roots, size_t *n)
{
    *n = *n > 0 && !graph->nodes.empty();
    if (*n > 0)
        roots[0] = &graph->nodes[0];
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long)
{
    size_t n_free, n_total;
    if (cudaMemGetInfo(&n_free, &n_total) != cudaSuccess || n_free < GRAPH_BYTES)
        return cudaErrorMemoryAllocation;
    *exec = new CUgraphExec_st{{graph->nodes.begin(), graph->nodes.end()}};
    return cudaSuccess;
}

cudaError_t cudaGraphExecKernelNodeSetParams(cudaGraphExec_t exec, cudaGraphNode_t node,
                                             const cudaKernelNodeParams *params)
{
    std::function<void()> run = node->change ? node->change(*params) : nullptr;
    if (!run)
        return cudaErrorInvalidValue;
    exec->nodes[node->at].run = std::move(run);
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream)
{
    for (const CUgraphNode_st &node : exec->nodes)
        sim::stream_do(stream, node.run);
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    delete graph;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    delete exec;
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned)
{
    *e = new CUevent_st();
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *e)
{
    return cudaEventCreateWithFlags(e, 0);
}

cudaError_t cudaEventDestroy(cudaEvent_t e)
{
    delete e;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t)
{
    clock_gettime(CLOCK_MONOTONIC, &e->at);
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t)
{
    return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t)
{
    return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to)
{
    *ms = (float)(to->at.tv_sec - from->at.tv_sec) * 1e3f +
          (float)(to->at.tv_nsec - from->at.tv_nsec) * 1e-6f;
    return cudaSuccess;
}

} // extern "C"
