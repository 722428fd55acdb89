// kcenter_merge: graph_passes/compressors/kcenter_merge.py. The loop that picks the centres also finds each token's
// nearest, so K launches pick and assign, and two more sort and average.
#include "farthest.cuh"
#include "host.h"
#include "merge.cuh"

namespace tokexport {
namespace {

struct Scratch {
    Key* picks;
    float* nearest;
    int* owner;
    int* slots;
    float* mean;

    Scratch(Arena& arena, const tokexport_shape& s, const tokexport_kcenter_merge_params&)
        : picks(arena.take<Key>(s.batch, s.keep)),
          nearest(arena.take<float>(s.batch, s.tokens)),
          owner(arena.take<int>(s.batch, s.tokens)),
          slots(arena.take<int>(s.batch, s.tokens)),
          mean(arena.take<float>(s.batch, s.dim)) {}

    static int check(const tokexport_shape&, const tokexport_kcenter_merge_params&) { return TOKEXPORT_OK; }
};

template <class L>
void select_and_merge(Queue& queue, const tokexport_shape& s, Start rule, const Rows<L>& tokens,
                      const tokexport_outputs& out, const Scratch& scratch) {
    if (s.keep == s.tokens) return keep_all(queue, tokens, s.batch, out);
    start(queue, rule, tokens, s.batch, GreedyBegin{scratch.picks, s.keep, scratch.nearest, INFINITY, s.tokens, false},
          scratch.mean);
    greedy(queue, Farthest<L, SquaredDistance>{tokens, {}, scratch.nearest, scratch.owner}, scratch.picks, s.keep,
           s.tokens, s.batch, true);
    queue(Compact<Marked>{Marked(scratch.nearest, kPicked, s.tokens), out.kept_indices, scratch.slots, nullptr,
                          out.assignment, nullptr, s.tokens, s.keep},
          dim3(1, s.batch));
    queue(Merge<L, OwnersSlot>{tokens, OwnersSlot{scratch.slots, scratch.owner, s.tokens}, out.kept_indices, nullptr,
                               false, nullptr, static_cast<typename L::T*>(out.tokens), out.sizes, out.assignment,
                               s.keep},
          slot_grid<L>(s.keep, s.batch, s.dim));
}

}  // namespace
}  // namespace tokexport

using namespace tokexport;

int tokexport_kcenter_merge_workspace(const tokexport_shape* shape, const tokexport_kcenter_merge_params* params,
                                      size_t* bytes) {
    return workspace_bytes<Scratch>(shape, params, bytes);
}

int tokexport_kcenter_merge(const tokexport_shape* shape, const tokexport_kcenter_merge_params* params,
                            const void* tokens, tokexport_outputs outputs, tokexport_workspace workspace,
                            tokexport_stream stream) {
    return enqueue<Scratch>(shape, params, tokens, outputs, workspace, stream,
                            [&](auto layout, Queue& queue, const Scratch& scratch) {
                                select_and_merge(queue, *shape, static_cast<Start>(params->start),
                                                 rows<decltype(layout)>(tokens, *shape), outputs, scratch);
                            });
}
