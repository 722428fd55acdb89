// apet: graph_passes/compressors/apet.py, M basis tokens and K slots in M + 7 launches (two more for a start that is
// not the first token).
#include "assign.cuh"
#include "basis.cuh"
#include "farthest.cuh"
#include "host.h"
#include "merge.cuh"

namespace tokexport {
namespace {

// The top K by rank; the last of them lose their slots to the basis tokens, in the order these were picked.
struct TopRanksAndBasis {
    const int* ranks;
    const Key* picks;
    int count;
    int keep;
    int basis;
    int taken_slots;

    __device__ int rank(int batch, int row) const { return ranks[static_cast<size_t>(batch) * count + row]; }
    __device__ bool kept(int batch, int row) const { return rank(batch, row) < keep; }
    __device__ bool taken(int batch, int row) const { return rank(batch, row) >= keep - taken_slots; }
    __device__ int source(int batch, int i) const { return key_index(picks[static_cast<size_t>(batch) * basis + i]); }
};

struct Scratch {
    Key* picks;
    Key* errors;
    Key* nearest_slot;
    double* gram;
    float* nearest;
    float* mean;
    float* q;
    float* reciprocals;
    int* ranks;
    int* slots;
    int* source;

    Scratch(Arena& arena, const tokexport_shape& s, const tokexport_apet_params& p)
        : picks(arena.take<Key>(s.batch, p.basis)),
          errors(arena.take<Key>(s.batch, s.tokens)),
          nearest_slot(arena.take<Key>(s.batch, s.tokens)),
          gram(arena.take<double>(s.batch, static_cast<size_t>(p.basis) * p.basis)),
          nearest(arena.take<float>(s.batch, s.tokens)),
          mean(arena.take<float>(s.batch, s.dim)),
          q(arena.take<float>(s.batch, static_cast<size_t>(p.basis) * s.dim)),
          reciprocals(arena.take<float>(s.batch, s.tokens)),
          ranks(arena.take<int>(s.batch, s.tokens)),
          slots(arena.take<int>(s.batch, s.tokens)),
          source(arena.take<int>(s.batch, s.keep)) {}

    static int check(const tokexport_shape& s, const tokexport_apet_params& p) {
        if (p.basis > s.tokens) return TOKEXPORT_BAD_BASIS;
        const bool room = p.basis_slots == TOKEXPORT_BASIS_NONE || s.keep > p.basis || s.keep == s.tokens;
        return room ? TOKEXPORT_OK : TOKEXPORT_BAD_KEEP;
    }
};

template <class L>
void select_and_merge(Queue& queue, const tokexport_shape& s, const tokexport_apet_params& p, const Rows<L>& tokens,
                      const tokexport_outputs& out, const Scratch& scratch) {
    if (s.keep == s.tokens) return keep_all(queue, tokens, s.batch, out);
    const dim3 warp_a_token(ceil_div(s.tokens, kWarps), s.batch);

    start(queue, static_cast<Start>(p.start), tokens, s.batch,
          GreedyBegin{scratch.picks, p.basis, scratch.nearest, INFINITY, s.tokens, false}, scratch.mean);
    greedy(queue, Farthest<L, SquaredDistance>{tokens, {}, scratch.nearest, nullptr}, scratch.picks, p.basis, s.tokens,
           s.batch, false);

    queue(Gram<L>{tokens, scratch.picks, scratch.gram, p.basis}, dim3(ceil_div(p.basis * p.basis, kWarps), s.batch));
    queue(Orthogonalise<L>{tokens, scratch.picks, scratch.gram, static_cast<double>(p.ridge), scratch.q, p.basis},
          dim3(ceil_div(s.dim, kThreads), s.batch));
    queue(Residual<L>{tokens, scratch.q, p.basis, scratch.errors, scratch.reciprocals, scratch.nearest_slot},
          warp_a_token);

    queue(Rank{scratch.errors, scratch.ranks, s.tokens}, warp_a_token);
    const int taken_slots = p.basis_slots == TOKEXPORT_BASIS_NONE ? 0 : p.basis;
    queue(
        Compact<TopRanksAndBasis>{
            TopRanksAndBasis{scratch.ranks, scratch.picks, s.tokens, s.keep, p.basis, taken_slots}, out.kept_indices,
            scratch.slots, scratch.source, out.assignment, nullptr, s.tokens, s.keep},
        dim3(1, s.batch));
    if (p.merge)
        assign(queue, tokens, scratch.reciprocals, OwnSlots{out.kept_indices, scratch.source, s.keep}, s.keep, s.batch,
               scratch.nearest_slot);
    queue(Merge<L, NearestSlot>{tokens, NearestSlot{scratch.slots, p.merge ? scratch.nearest_slot : nullptr, s.tokens},
                                out.kept_indices, scratch.source, p.basis_slots == TOKEXPORT_BASIS_BLEND, nullptr,
                                static_cast<typename L::T*>(out.tokens), out.sizes, out.assignment, s.keep},
          slot_grid<L>(s.keep, s.batch, s.dim));
}

}  // namespace
}  // namespace tokexport

using namespace tokexport;

int tokexport_apet_workspace(const tokexport_shape* shape, const tokexport_apet_params* params, size_t* bytes) {
    return workspace_bytes<Scratch>(shape, params, bytes);
}

int tokexport_apet(const tokexport_shape* shape, const tokexport_apet_params* params, const void* tokens,
                   tokexport_outputs outputs, tokexport_workspace workspace, tokexport_stream stream) {
    return enqueue<Scratch>(
        shape, params, tokens, outputs, workspace, stream, [&](auto layout, Queue& queue, const Scratch& scratch) {
            select_and_merge(queue, *shape, *params, rows<decltype(layout)>(tokens, *shape), outputs, scratch);
        });
}
