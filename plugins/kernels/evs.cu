// evs: graph_passes/compressors/evs.py. Score by change, rank, sort, gather.
#include "host.h"
#include "merge.cuh"
#include "score.cuh"

namespace tokexport {
namespace {

constexpr float kFirstFrame = 255.0f;  // 1 - cosine is at most 2

// keys [B, N] by 1 - cosine to the token one frame, `places` tokens, earlier; those of the first frame above all.
// Grid: (ceil(N / kWarps), B).
template <class L>
struct Changes {
    Rows<L> tokens;
    const float* reciprocals;  // of the norms [B, N]
    int places;
    Key* keys;

    __device__ void operator()() const {
        const int row = blockIdx.x * kWarps + warp(), batch = blockIdx.y;
        if (row >= tokens.count) return;
        const float change =
            row < places ? kFirstFrame : 1.0f - warp_cosine(tokens, reciprocals, batch, row, row - places);
        if (lane() == 0) keys[static_cast<size_t>(batch) * tokens.count + row] = make_key(change, row);
    }
};

struct Scratch {
    Key* keys;
    float* reciprocals;
    int* ranks;

    Scratch(Arena& arena, const tokexport_shape& s, const tokexport_evs_params&)
        : keys(arena.take<Key>(s.batch, s.tokens)),
          reciprocals(arena.take<float>(s.batch, s.tokens)),
          ranks(arena.take<int>(s.batch, s.tokens)) {}

    static int check(const tokexport_shape& s, const tokexport_evs_params& p) {
        if (!covers(p.grid, s)) return TOKEXPORT_BAD_GRID;
        return s.keep < p.grid.height * p.grid.width ? TOKEXPORT_BAD_KEEP : TOKEXPORT_OK;
    }
};

template <class L>
void select(Queue& queue, const tokexport_shape& s, int places, const Rows<L>& tokens, const tokexport_outputs& out,
            const Scratch& scratch) {
    const dim3 warp_a_token(ceil_div(s.tokens, kWarps), s.batch);
    queue(Norms<L>{tokens, nullptr, nullptr, nullptr, 0, scratch.reciprocals}, warp_a_token);
    queue(Changes<L>{tokens, scratch.reciprocals, places, scratch.keys}, warp_a_token);
    keep_highest(queue, scratch.keys, scratch.ranks, tokens, s.batch, s.keep, out);
}

}  // namespace
}  // namespace tokexport

using namespace tokexport;

int tokexport_evs_workspace(const tokexport_shape* shape, const tokexport_evs_params* params, size_t* bytes) {
    return workspace_bytes<Scratch>(shape, params, bytes);
}

int tokexport_evs(const tokexport_shape* shape, const tokexport_evs_params* params, const void* tokens,
                  tokexport_outputs outputs, tokexport_workspace workspace, tokexport_stream stream) {
    return enqueue<Scratch>(
        shape, params, tokens, outputs, workspace, stream, [&](auto layout, Queue& queue, const Scratch& scratch) {
            select(queue, *shape, params->grid.height * params->grid.width, rows<decltype(layout)>(tokens, *shape),
                   outputs, scratch);
        });
}
