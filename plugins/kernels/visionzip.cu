// visionzip: graph_passes/compressors/visionzip.py. Rank by attention, choose targets, find the nearest, merge.
#include "assign.cuh"
#include "given.cuh"
#include "merge.cuh"
#include "score.cuh"

namespace tokexport {
namespace {

enum Role : int { kMerged = 0, kDominant = 1, kTarget = 2 };

// roles [B, N]: the first `dominant` by rank; every `every`-th of the others, up to `targets` of them; the rest. Grid:
// (1, B).
struct Roles {
    const int* ranks;
    int* roles;
    int count;
    int dominant;
    int targets;
    int every;

    __device__ void operator()() const {
        const size_t first = static_cast<size_t>(blockIdx.y) * count;
        int others = 0;
        for (int base = 0; base < count; base += kThreads) {
            const int row = base + threadIdx.x;
            const bool other = row < count && ranks[first + row] >= dominant;
            const Place place = block_place(other);
            const int number = others + place.before;
            const bool target = other && number % every == 0 && number / every < targets;
            if (row < count) roles[first + row] = target ? kTarget : other ? kMerged : kDominant;
            others += place.total;
        }
    }
};

struct HasSlot : Plain {
    const int* roles;
    int count;

    HasSlot(const int* roles_, int count_) : roles(roles_), count(count_) {}

    __device__ bool kept(int batch, int row) const { return roles[static_cast<size_t>(batch) * count + row] != kMerged; }
};

// The slots of targets.
struct Targets {
    const int64_t* kept_indices;
    const int* roles;
    int count;
    int keep;

    __device__ int operator()(int batch, int slot) const {
        const int position = static_cast<int>(kept_indices[static_cast<size_t>(batch) * keep + slot]);
        return roles[static_cast<size_t>(batch) * count + position] == kTarget ? position : -1;
    }
};

struct Scratch {
    Key* keys;
    Key* nearest;
    float* reciprocals;
    int* ranks;
    int* roles;
    int* slots;

    Scratch(Arena& arena, const tokexport_shape& s, const tokexport_visionzip_params&)
        : keys(arena.take<Key>(s.batch, s.tokens)),
          nearest(arena.take<Key>(s.batch, s.tokens)),
          reciprocals(arena.take<float>(s.batch, s.tokens)),
          ranks(arena.take<int>(s.batch, s.tokens)),
          roles(arena.take<int>(s.batch, s.tokens)),
          slots(arena.take<int>(s.batch, s.tokens)) {}

    static int check(const tokexport_shape& s, const tokexport_visionzip_params& p) {
        return p.contextual < s.keep ? TOKEXPORT_OK : TOKEXPORT_BAD_PARAMETER;
    }
};

template <class L>
void nearest_target(Queue& queue, const tokexport_shape& s, const Rows<L>& keys, const tokexport_outputs& out,
                    const Scratch& scratch) {
    queue(Norms<L>{keys, nullptr, nullptr, nullptr, 0, scratch.reciprocals},
          dim3(ceil_div(s.tokens, kWarps), s.batch));
    queue(Clear{scratch.nearest, s.tokens}, dim3(ceil_div(s.tokens, kThreads), s.batch));
    assign(queue, keys, scratch.reciprocals, Targets{out.kept_indices, scratch.roles, s.tokens, s.keep}, s.keep,
           s.batch, scratch.nearest);
}

template <class L>
void select_and_merge(Queue& queue, const tokexport_shape& s, const tokexport_visionzip_params& p,
                      const Rows<L>& tokens, const void* attention, const void* keys, const tokexport_outputs& out,
                      const Scratch& scratch) {
    using T = typename L::T;
    if (s.keep == s.tokens) return keep_all(queue, tokens, s.batch, out);
    given_scores(queue, s, p.attention_dtype, attention, scratch.keys);
    queue(Rank{scratch.keys, scratch.ranks, s.tokens}, dim3(ceil_div(s.tokens, kWarps), s.batch));
    if (p.contextual == 0)
        return keep_as_they_are(queue, TopRanks(scratch.ranks, s.tokens, s.keep), tokens, s.batch, s.keep, out);
    const int dominant = s.keep - p.contextual;
    queue(Roles{scratch.ranks, scratch.roles, s.tokens, dominant, p.contextual, (s.tokens - dominant) / p.contextual},
          dim3(1, s.batch));
    queue(Compact<HasSlot>{HasSlot(scratch.roles, s.tokens), out.kept_indices, scratch.slots, nullptr, out.assignment,
                           nullptr, s.tokens, s.keep},
          dim3(1, s.batch));
    with_layout(s.dtype, p.keys_dim, keys, keys, [&](auto layout) {
        using M = decltype(layout);
        nearest_target(queue, s, Rows<M>{static_cast<const typename M::T*>(keys), s.tokens, p.keys_dim}, out, scratch);
        return 0;
    });
    const NearestSlot destination{scratch.slots, scratch.nearest, s.tokens};
    const dim3 grid = slot_grid<L>(s.keep, s.batch, s.dim);
    T* to = static_cast<T*>(out.tokens);
    if (p.merge == TOKEXPORT_MERGE_ADD)
        queue(Merge<L, NearestSlot, T, true>{tokens, destination, out.kept_indices, nullptr, false, nullptr, to,
                                             out.sizes, out.assignment, s.keep},
              grid);
    else
        queue(Merge<L, NearestSlot>{tokens, destination, out.kept_indices, nullptr, false, nullptr, to, out.sizes,
                                    out.assignment, s.keep},
              grid);
}

}  // namespace
}  // namespace tokexport

using namespace tokexport;

int tokexport_visionzip_workspace(const tokexport_shape* shape, const tokexport_visionzip_params* params,
                                  size_t* bytes) {
    return workspace_bytes<Scratch>(shape, params, bytes);
}

int tokexport_visionzip(const tokexport_shape* shape, const tokexport_visionzip_params* params, const void* tokens,
                        const void* attention, const void* keys, tokexport_outputs outputs,
                        tokexport_workspace workspace, tokexport_stream stream) {
    if (params != nullptr && is_dtype(params->attention_dtype))
        if (const int bad = check_signal(attention, bytes_of(params->attention_dtype))) return bad;
    if (shape != nullptr && is_dtype(shape->dtype))
        if (const int bad = check_signal(keys, bytes_of(shape->dtype))) return bad;
    return enqueue<Scratch>(shape, params, tokens, outputs, workspace, stream,
                            [&](auto layout, Queue& queue, const Scratch& scratch) {
                                select_and_merge(queue, *shape, *params, rows<decltype(layout)>(tokens, *shape),
                                                 attention, keys, outputs, scratch);
                            });
}
