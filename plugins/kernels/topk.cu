// topk: graph_passes/compressors/topk.py. Score, rank, sort, gather.
#include "given.cuh"
#include "merge.cuh"
#include "score.cuh"

namespace tokexport {
namespace {

struct Scratch {
    Key* keys;
    int* ranks;
    float* mean;

    Scratch(Arena& arena, const tokexport_shape& s, const tokexport_topk_params&)
        : keys(arena.take<Key>(s.batch, s.tokens)),
          ranks(arena.take<int>(s.batch, s.tokens)),
          mean(arena.take<float>(s.batch, s.dim)) {}

    static int check(const tokexport_shape&, const tokexport_topk_params&) { return TOKEXPORT_OK; }
};

template <class L>
void select(Queue& queue, const tokexport_shape& s, const tokexport_topk_params& p, const Rows<L>& tokens,
            const void* scores, const tokexport_outputs& out, const Scratch& scratch) {
    const dim3 warp_a_token(ceil_div(s.tokens, kWarps), s.batch);
    if (p.score == TOKEXPORT_SCORE_GIVEN) {
        given_scores(queue, s, p.scores_dtype, scores, scratch.keys);
    } else {
        const bool centred = p.score == TOKEXPORT_SCORE_DISTANCE_TO_MEAN;
        if (centred) queue(Mean<L>{tokens, scratch.mean}, dim3(ceil_div(s.dim, kWarp), s.batch));
        queue(Norms<L>{tokens, centred ? scratch.mean : nullptr, scratch.keys, nullptr, 0, nullptr}, warp_a_token);
    }
    keep_highest(queue, scratch.keys, scratch.ranks, tokens, s.batch, s.keep, out);
}

}  // namespace
}  // namespace tokexport

using namespace tokexport;

int tokexport_topk_workspace(const tokexport_shape* shape, const tokexport_topk_params* params, size_t* bytes) {
    return workspace_bytes<Scratch>(shape, params, bytes);
}

int tokexport_topk(const tokexport_shape* shape, const tokexport_topk_params* params, const void* tokens,
                   const void* scores, tokexport_outputs outputs, tokexport_workspace workspace,
                   tokexport_stream stream) {
    if (params != nullptr && params->score == TOKEXPORT_SCORE_GIVEN && is_dtype(params->scores_dtype))
        if (const int bad = check_signal(scores, bytes_of(params->scores_dtype))) return bad;
    return enqueue<Scratch>(
        shape, params, tokens, outputs, workspace, stream, [&](auto layout, Queue& queue, const Scratch& scratch) {
            select(queue, *shape, *params, rows<decltype(layout)>(tokens, *shape), scores, outputs, scratch);
        });
}
