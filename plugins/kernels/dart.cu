// dart: graph_passes/compressors/dart.py. P pivots, each of which keeps its share of the tokens least similar to it.
#include "host.h"
#include "merge.cuh"
#include "score.cuh"

namespace tokexport {
namespace {

// keys [B, N] by L1 norm. Grid: (ceil(N / kWarps), B).
template <class L>
struct AbsoluteSums {
    Rows<L> rows;
    Key* keys;

    __device__ void operator()() const {
        const int row = blockIdx.x * kWarps + warp(), batch = blockIdx.y;
        if (row >= rows.count) return;
        float sum = 0.0f;
        for (int c = lane() * L::V; c < rows.dim; c += kWarp * L::V) {
            const auto x = Floats<L>::load(rows.at(batch, row) + c);
            for (int i = 0; i < L::V; ++i) sum += fabsf(x.v[i]);
        }
        sum = warp_sum(sum);
        if (lane() == 0) keys[static_cast<size_t>(batch) * rows.count + row] = make_key(sum, row);
    }
};

// The tokens of the `share` lowest ranks, and those taken before where there are any.
struct Taken : Plain {
    const bool* before;
    const int* ranks;
    int share;
    int count;

    Taken(const bool* before_, const int* ranks_, int share_, int count_)
        : before(before_), ranks(ranks_), share(share_), count(count_) {}

    __device__ bool kept(int batch, int row) const {
        const size_t at = static_cast<size_t>(batch) * count + row;
        return ranks[at] < share || (before != nullptr && before[at]);
    }
};

// keys [B, N] by how little a token is like a pivot; 0, below all, for those taken, which it also marks. Grid:
// (ceil(N / kWarps), B).
template <class L>
struct Unlike {
    Rows<L> tokens;
    const float* reciprocals;  // of the norms [B, N]
    const int64_t* pivots;     // [B, P]
    int pivot_count;
    int pivot;
    Taken taken;
    bool* marks;
    Key* keys;

    __device__ void operator()() const {
        const int row = blockIdx.x * kWarps + warp(), batch = blockIdx.y;
        if (row >= tokens.count) return;
        const size_t at = static_cast<size_t>(batch) * tokens.count + row;
        const int position = static_cast<int>(pivots[static_cast<size_t>(batch) * pivot_count + pivot]);
        const bool gone = taken.kept(batch, row);
        const float cosine = warp_cosine(tokens, reciprocals, batch, row, position);
        if (lane() != 0) return;
        marks[at] = gone;
        keys[at] = gone ? 0 : make_key(-cosine, row);
    }
};

struct Scratch {
    Key* keys;
    int64_t* pivots;
    float* reciprocals;
    int* ranks;
    bool* marks;

    Scratch(Arena& arena, const tokexport_shape& s, const tokexport_dart_params& p)
        : keys(arena.take<Key>(s.batch, s.tokens)),
          pivots(arena.take<int64_t>(s.batch, p.pivots)),
          reciprocals(arena.take<float>(s.batch, s.tokens)),
          ranks(arena.take<int>(s.batch, s.tokens)),
          marks(arena.take<bool>(s.batch, s.tokens)) {}

    static int check(const tokexport_shape& s, const tokexport_dart_params& p) {
        return s.keep < p.pivots ? TOKEXPORT_BAD_KEEP : TOKEXPORT_OK;
    }
};

template <class L>
void select(Queue& queue, const tokexport_shape& s, int pivots, const Rows<L>& tokens, const tokexport_outputs& out,
            const Scratch& scratch) {
    const dim3 warp_a_token(ceil_div(s.tokens, kWarps), s.batch);
    queue(Norms<L>{tokens, nullptr, nullptr, nullptr, 0, scratch.reciprocals}, warp_a_token);
    queue(Rank{scratch.keys, scratch.ranks, s.tokens}, warp_a_token);
    queue(Compact<TopRanks>{TopRanks(scratch.ranks, s.tokens, pivots), scratch.pivots, nullptr, nullptr, out.assignment,
                            nullptr, s.tokens, pivots},
          dim3(1, s.batch));
    Taken taken(nullptr, scratch.ranks, pivots, s.tokens);
    for (int pivot = 0; pivot < pivots; ++pivot) {
        const int left = s.keep - pivots, share = left / pivots + (pivot < left % pivots ? 1 : 0);
        if (share == 0) break;
        queue(Unlike<L>{tokens, scratch.reciprocals, scratch.pivots, pivots, pivot, taken, scratch.marks, scratch.keys},
              warp_a_token);
        queue(Rank{scratch.keys, scratch.ranks, s.tokens}, warp_a_token);
        taken = Taken(scratch.marks, scratch.ranks, share, s.tokens);
    }
    keep_as_they_are(queue, taken, tokens, s.batch, s.keep, out);
}

}  // namespace
}  // namespace tokexport

using namespace tokexport;

int tokexport_dart_workspace(const tokexport_shape* shape, const tokexport_dart_params* params, size_t* bytes) {
    return workspace_bytes<Scratch>(shape, params, bytes);
}

int tokexport_dart(const tokexport_shape* shape, const tokexport_dart_params* params, const void* tokens,
                   const void* keys, tokexport_outputs outputs, tokexport_workspace workspace,
                   tokexport_stream stream) {
    const bool of_keys = params != nullptr && params->keys_dim != 0;
    if (of_keys && shape != nullptr && is_dtype(shape->dtype))
        if (const int bad = check_signal(keys, bytes_of(shape->dtype))) return bad;
    return enqueue<Scratch>(
        shape, params, tokens, outputs, workspace, stream, [&](auto layout, Queue& queue, const Scratch& scratch) {
            const tokexport_shape& s = *shape;
            const void* metric = of_keys ? keys : tokens;
            const int dim = of_keys ? params->keys_dim : s.dim;
            with_layout(s.dtype, dim, metric, metric, [&](auto metric_layout) {
                using M = decltype(metric_layout);
                const Rows<M> rows_of_metric{static_cast<const typename M::T*>(metric), s.tokens, dim};
                queue(AbsoluteSums<M>{rows_of_metric, scratch.keys}, dim3(ceil_div(s.tokens, kWarps), s.batch));
                return 0;
            });
            select(queue, s, params->pivots, rows<decltype(layout)>(tokens, s), outputs, scratch);
        });
}
