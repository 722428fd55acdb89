// uniform and random: positions that do not depend on the tokens, found on the device so that a caller needs no table.
#include "host.h"
#include "merge.cuh"
#include "pcg64.h"

namespace tokexport {
namespace {

// keys [N] that order as the numbers do, smallest first. One batch element is enough. Grid: (any).
struct RandomKeys {
    Pcg64 generator;
    Key* keys;
    int count;

    __device__ void operator()() const {
        for (int row = blockIdx.x * kThreads + threadIdx.x; row < count; row += gridDim.x * kThreads)
            keys[row] = ~generator.at(row);
    }
};

// The K tokens of lowest rank, the same in every batch element.
struct SharedRanks : Plain {
    const int* ranks;
    int keep;

    SharedRanks(const int* ranks_, int keep_) : ranks(ranks_), keep(keep_) {}

    __device__ bool kept(int, int row) const { return ranks[row] < keep; }
};

struct Scratch {
    Key* keys;
    int* ranks;

    Scratch(Arena& arena, const tokexport_shape& s, const tokexport_random_params&)
        : keys(arena.take<Key>(1, s.tokens)), ranks(arena.take<int>(1, s.tokens)) {}

    static int check(const tokexport_shape&, const tokexport_random_params&) { return TOKEXPORT_OK; }
};

}  // namespace
}  // namespace tokexport

using namespace tokexport;

int tokexport_uniform(const tokexport_shape* shape, const void* tokens, tokexport_outputs outputs,
                      tokexport_stream stream) {
    if (const int bad = check(shape)) return bad;
    if (const int bad = check(*shape, tokens, outputs, {}, 0)) return bad;
    return with_layout(shape->dtype, shape->dim, tokens, outputs.tokens, [&](auto layout) {
        Queue queue(stream);
        keep_as_they_are(queue, EqualSteps(shape->tokens, shape->keep), rows<decltype(layout)>(tokens, *shape),
                         shape->batch, shape->keep, outputs);
        return status(queue.error());
    });
}

int tokexport_random_workspace(const tokexport_shape* shape, const tokexport_random_params* params, size_t* bytes) {
    return workspace_bytes<Scratch>(shape, params, bytes);
}

int tokexport_random(const tokexport_shape* shape, const tokexport_random_params* params, const void* tokens,
                     tokexport_outputs outputs, tokexport_workspace workspace, tokexport_stream stream) {
    return enqueue<Scratch>(
        shape, params, tokens, outputs, workspace, stream, [&](auto layout, Queue& queue, const Scratch& scratch) {
            const tokexport_shape& s = *shape;
            queue(RandomKeys{pcg64(params->seed), scratch.keys, s.tokens}, dim3(ceil_div(s.tokens, kThreads)));
            queue(Rank{scratch.keys, scratch.ranks, s.tokens}, dim3(ceil_div(s.tokens, kWarps)));
            keep_as_they_are(queue, SharedRanks(scratch.ranks, s.keep), rows<decltype(layout)>(tokens, s), s.batch,
                             s.keep, outputs);
        });
}
