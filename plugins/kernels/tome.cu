// tome: one round of ToMe's bipartite matching (arXiv 2210.09461).
#include "assign.cuh"
#include "host.h"
#include "merge.cuh"
#include "score.cuh"

namespace tokexport {
namespace {

// Odd positions, from the first that is not protected.
struct OddPositions {
    int protect;

    __device__ int operator()(int, int column) const { return 2 * column + 1 >= protect ? 2 * column + 1 : -1; }
};

// keys [B, N] of the tokens that may merge, by the similarity of their best partner; 0 for the others.
struct MergeKeys {
    const Key* partner;
    Key* keys;
    int count;
    int protect;

    __device__ void operator()() const {
        for (int row = blockIdx.x * kThreads + threadIdx.x; row < count; row += gridDim.x * kThreads) {
            const size_t at = static_cast<size_t>(blockIdx.y) * count + row;
            keys[at] = row % 2 == 0 && row >= protect ? make_key(key_score(partner[at]), row) : 0;
        }
    }
};

// All but the tokens of the lowest ranks.
struct NotMerged : Plain {
    const int* ranks;
    int count;
    int merged;

    NotMerged(const int* ranks_, int count_, int merged_) : ranks(ranks_), count(count_), merged(merged_) {}

    __device__ bool kept(int batch, int row) const { return ranks[static_cast<size_t>(batch) * count + row] >= merged; }
};

// A kept token's own slot; a merged one's partner's.
struct PartnersSlot {
    const int* slots;
    const Key* partner;
    int count;

    __device__ int operator()(int batch, int row) const {
        const size_t first = static_cast<size_t>(batch) * count;
        const int slot = slots[first + row];
        return slot == kLost ? slots[first + 2 * key_index(partner[first + row]) + 1] : slot;
    }
};

struct Scratch {
    Key* partner;
    Key* keys;
    float* reciprocals;
    int* ranks;
    int* slots;

    Scratch(Arena& arena, const tokexport_shape& s, const tokexport_tome_params&)
        : partner(arena.take<Key>(s.batch, s.tokens)),
          keys(arena.take<Key>(s.batch, s.tokens)),
          reciprocals(arena.take<float>(s.batch, s.tokens)),
          ranks(arena.take<int>(s.batch, s.tokens)),
          slots(arena.take<int>(s.batch, s.tokens)) {}

    static int check(const tokexport_shape& s, const tokexport_tome_params& p) {
        if (p.protect < 0 || p.protect > s.tokens) return TOKEXPORT_BAD_PARAMETER;
        if (p.metric_dim < 1 || p.metric_dim > TOKEXPORT_MAX_DIM) return TOKEXPORT_BAD_DIM;
        return s.keep < s.tokens - (s.tokens - p.protect) / 2 ? TOKEXPORT_BAD_KEEP : TOKEXPORT_OK;
    }
};

template <class L>
void match(Queue& queue, const tokexport_shape& s, const tokexport_tome_params& p, const void* in,
           const Scratch& scratch) {
    const Rows<L> metric{static_cast<const typename L::T*>(in), s.tokens, p.metric_dim};
    const dim3 warp_a_token(ceil_div(s.tokens, kWarps), s.batch), thread_a_token(ceil_div(s.tokens, kThreads), s.batch);
    queue(Clear{scratch.partner, s.tokens}, thread_a_token);
    queue(Norms<L>{metric, nullptr, nullptr, nullptr, 0, scratch.reciprocals}, warp_a_token);
    assign(queue, metric, scratch.reciprocals, OddPositions{p.protect}, s.tokens / 2, s.batch, scratch.partner);
    queue(MergeKeys{scratch.partner, scratch.keys, s.tokens, p.protect}, thread_a_token);
    queue(Rank{scratch.keys, scratch.ranks, s.tokens}, warp_a_token);
}

template <class L>
void merge(Queue& queue, const tokexport_shape& s, const void* in, const float* sizes_in, const tokexport_outputs& out,
           const Scratch& scratch) {
    queue(Compact<NotMerged>{NotMerged(scratch.ranks, s.tokens, s.tokens - s.keep), out.kept_indices, scratch.slots,
                             nullptr, out.assignment, nullptr, s.tokens, s.keep},
          dim3(1, s.batch));
    queue(Merge<L, PartnersSlot>{rows<L>(in, s), PartnersSlot{scratch.slots, scratch.partner, s.tokens},
                                 out.kept_indices, nullptr, false, sizes_in, static_cast<typename L::T*>(out.tokens),
                                 out.sizes, out.assignment, s.keep},
          slot_grid<L>(s.keep, s.batch, s.dim));
}

}  // namespace
}  // namespace tokexport

using namespace tokexport;

int tokexport_tome_workspace(const tokexport_shape* shape, const tokexport_tome_params* params, size_t* bytes) {
    return workspace_bytes<Scratch>(shape, params, bytes);
}

int tokexport_tome(const tokexport_shape* shape, const tokexport_tome_params* params, const void* tokens,
                   const void* metric, const float* sizes_in, tokexport_outputs outputs, tokexport_workspace workspace,
                   tokexport_stream stream) {
    if (shape != nullptr && is_dtype(shape->dtype))
        if (const int bad = check_signal(metric, bytes_of(shape->dtype))) return bad;
    if (sizes_in != nullptr)
        if (const int bad = check_signal(sizes_in, sizeof(float))) return bad;
    return enqueue<Scratch>(shape, params, tokens, outputs, workspace, stream,
                            [&](auto layout, Queue& queue, const Scratch& scratch) {
                                with_layout(shape->dtype, params->metric_dim, metric, metric, [&](auto metric_layout) {
                                    match<decltype(metric_layout)>(queue, *shape, *params, metric, scratch);
                                    return 0;
                                });
                                merge<decltype(layout)>(queue, *shape, tokens, sizes_in, outputs, scratch);
                            });
}
