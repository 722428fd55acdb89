// tome: graph_passes/compressors/tome.py, rounds of bipartite matching (ToMe, arXiv 2210.09461). Rounds are on the metric;
// the tokens are merged once, after the last.
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

// What a round on t tokens means for the first N: the slot [B, N] of each, and the position [B, left] that each slot
// inherits. Before the first round, where `kept` is null, a token is its own slot. Grid: (any, B).
struct Compose {
    PartnersSlot round;
    const int64_t* stays;  // [B, left], of the t
    const int64_t* kept;   // [B, t]
    int* slot;
    int64_t* kept_after;
    int count;
    int left;

    __device__ void operator()() const {
        const int start = blockIdx.x * kThreads + threadIdx.x, step = gridDim.x * kThreads, batch = blockIdx.y;
        for (int row = start; row < count; row += step) {
            int& own = slot[static_cast<size_t>(batch) * count + row];
            own = round(batch, kept == nullptr ? row : own);
        }
        for (int i = start; i < left; i += step) {
            const size_t at = static_cast<size_t>(batch) * left + i;
            kept_after[at] = kept == nullptr ? stays[at] : kept[static_cast<size_t>(batch) * round.count + stays[at]];
        }
    }
};

struct SlotOf {
    const int* slot;
    int count;

    __device__ int operator()(int batch, int row) const { return slot[static_cast<size_t>(batch) * count + row]; }
};

// How many tokens the next round leaves of t.
int left_of(int t, const tokexport_shape& s, const tokexport_tome_params& p) {
    const int fewest = t - (t - p.protect) / 2;
    return s.keep > fewest ? s.keep : fewest;
}

int width_of(const tokexport_shape& s, const tokexport_tome_params& p) {
    return p.metric_dim == 0 ? s.dim : p.metric_dim;
}

struct Scratch {
    Key* partner;
    Key* keys;
    int64_t* stays;
    int64_t* kept[2];  // by turns
    float* means;      // of the metric, between rounds
    float* sizes;
    float* reciprocals;
    int* ranks;
    int* slots;
    int* slot;

    Scratch(Arena& arena, const tokexport_shape& s, const tokexport_tome_params& p)
        : partner(arena.take<Key>(s.batch, s.tokens)),
          keys(arena.take<Key>(s.batch, s.tokens)),
          stays(arena.take<int64_t>(s.batch, s.tokens)),
          kept{arena.take<int64_t>(s.batch, s.tokens), arena.take<int64_t>(s.batch, s.tokens)},
          means(arena.take<float>(s.batch, static_cast<size_t>(left_of(s.tokens, s, p)) * width_of(s, p))),
          sizes(arena.take<float>(s.batch, s.tokens)),
          reciprocals(arena.take<float>(s.batch, s.tokens)),
          ranks(arena.take<int>(s.batch, s.tokens)),
          slots(arena.take<int>(s.batch, s.tokens)),
          slot(arena.take<int>(s.batch, s.tokens)) {}

    static int check(const tokexport_shape& s, const tokexport_tome_params& p) {
        if (p.protect > s.tokens) return TOKEXPORT_BAD_PARAMETER;
        return s.keep <= p.protect && s.keep < s.tokens ? TOKEXPORT_BAD_KEEP : TOKEXPORT_OK;
    }
};

// One round on the tokens of `metric`: who merges into whom, and who stays.
template <class L>
void match(Queue& queue, const Rows<L>& metric, int batch, int left, int protect, int64_t* assignment,
           const Scratch& scratch) {
    const int t = metric.count;
    const dim3 warp_a_token(ceil_div(t, kWarps), batch), thread_a_token(ceil_div(t, kThreads), batch);
    queue(Clear{scratch.partner, t}, thread_a_token);
    queue(Norms<L>{metric, nullptr, nullptr, nullptr, 0, scratch.reciprocals}, warp_a_token);
    if (t > 1) assign(queue, metric, scratch.reciprocals, OddPositions{protect}, t / 2, batch, scratch.partner);
    queue(MergeKeys{scratch.partner, scratch.keys, t, protect}, thread_a_token);
    queue(Rank{scratch.keys, scratch.ranks, t}, warp_a_token);
    queue(Compact<NotMerged>{NotMerged(scratch.ranks, t, t - left), scratch.stays, scratch.slots, nullptr, assignment,
                             nullptr, t, left},
          dim3(1, batch));
}

// All rounds: the slots of the tokens into scratch, their positions into kept_indices.
template <class L>
void fold(Queue& queue, const tokexport_shape& s, const tokexport_tome_params& p, const Rows<L>& metric,
          const float* sizes_in, const tokexport_outputs& out, const Scratch& scratch) {
    const int64_t* kept = nullptr;
    for (int t = s.tokens, round = 0;; ++round) {
        const int left = left_of(t, s, p);
        if (round == 0)
            match(queue, metric, s.batch, left, p.protect, out.assignment, scratch);
        else
            with_width<float>(metric.dim, scratch.means, scratch.means, [&](auto layout) {
                match(queue, Rows<decltype(layout)>{scratch.means, t, metric.dim}, s.batch, left, p.protect,
                      out.assignment, scratch);
                return 0;
            });
        int64_t* const kept_after = left == s.keep ? out.kept_indices : scratch.kept[round % 2];
        queue(Compose{PartnersSlot{scratch.slots, scratch.partner, t}, scratch.stays, kept, scratch.slot, kept_after,
                      s.tokens, left},
              dim3(ceil_div(s.tokens, kThreads), s.batch));
        if (left == s.keep) return;
        queue(Merge<L, SlotOf, float>{metric, SlotOf{scratch.slot, s.tokens}, nullptr, nullptr, false, sizes_in,
                                      scratch.means, scratch.sizes, out.assignment, left},
              slot_grid<L>(left, s.batch, metric.dim));
        kept = kept_after;
        t = left;
    }
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
    const bool of_tokens = params != nullptr && params->metric_dim == 0;
    if (!of_tokens && shape != nullptr && is_dtype(shape->dtype))
        if (const int bad = check_signal(metric, bytes_of(shape->dtype))) return bad;
    if (sizes_in != nullptr)
        if (const int bad = check_signal(sizes_in, sizeof(float))) return bad;
    return enqueue<Scratch>(
        shape, params, tokens, outputs, workspace, stream, [&](auto layout, Queue& queue, const Scratch& scratch) {
            using L = decltype(layout);
            const tokexport_shape& s = *shape;
            const void* by = of_tokens ? tokens : metric;
            const int dim = width_of(s, *params);
            with_layout(s.dtype, dim, by, by, [&](auto metric_layout) {
                using M = decltype(metric_layout);
                const Rows<M> rows_of_metric{static_cast<const typename M::T*>(by), s.tokens, dim};
                fold(queue, s, *params, rows_of_metric, sizes_in, outputs, scratch);
                return 0;
            });
            queue(Merge<L, SlotOf>{rows<L>(tokens, s), SlotOf{scratch.slot, s.tokens}, outputs.kept_indices, nullptr,
                                   false, sizes_in, static_cast<typename L::T*>(outputs.tokens), outputs.sizes,
                                   outputs.assignment, s.keep},
                  slot_grid<L>(s.keep, s.batch, s.dim));
        });
}
