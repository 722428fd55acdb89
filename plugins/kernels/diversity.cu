// divprune (arXiv 2503.02175), cdpruner (arXiv 2506.10967), scope (arXiv 2510.24214): one greedy loop, three rules.
#include "assign.cuh"
#include "diversity.cuh"
#include "farthest.cuh"
#include "given.cuh"
#include "merge.cuh"
#include "relevance.cuh"

namespace tokexport {
namespace {

// What all three need, with a table of as many rows as the method wants.
struct Selection {
    Key* picks;
    Key* neighbour;
    float* state;
    float* reciprocals;
    float* table;  // divprune: nothing; cdpruner: the factor [B, K, N]; scope: the cosines [B, N, N]
    float* covered;

    Selection(Arena& arena, const tokexport_shape& s, int table_rows)
        : picks(arena.take<Key>(s.batch, s.keep)),
          neighbour(arena.take<Key>(s.batch, s.tokens)),
          state(arena.take<float>(s.batch, s.tokens)),
          reciprocals(arena.take<float>(s.batch, s.tokens)),
          table(arena.take<float>(s.batch, static_cast<size_t>(table_rows) * s.tokens)),
          covered(arena.take<float>(2, static_cast<size_t>(s.batch) * s.tokens)) {}

    static int check(const tokexport_shape&, NoParams) { return TOKEXPORT_OK; }
    static int check_signal(const void*, NoParams) { return TOKEXPORT_OK; }
};

// Raises the first pick to the token whose nearest neighbour is farthest. Grid: (any, B).
struct Loneliest {
    const Key* neighbour;
    Key* picks;
    int picked;
    int count;

    __device__ void operator()() const {
        Key best = 0;
        for (int row = blockIdx.x * kThreads + threadIdx.x; row < count; row += gridDim.x * kThreads) {
            const float cosine = key_score(neighbour[static_cast<size_t>(blockIdx.y) * count + row]);
            best = larger(best, make_key(1.0f - cosine, row));
        }
        block_raise(picks + static_cast<size_t>(blockIdx.y) * picked, warp_max(best));
    }
};

struct DivPrune : Selection {
    DivPrune(Arena& arena, const tokexport_shape& s, NoParams) : Selection(arena, s, 0) {}

    template <class L>
    void select(Queue& queue, const tokexport_shape& s, NoParams, const Rows<L>& tokens, const void*) const {
        const dim3 thread_a_token(ceil_div(s.tokens, kThreads), s.batch);
        queue(Clear{neighbour, s.tokens}, thread_a_token);
        assign(queue, tokens, reciprocals, Everyone{}, s.tokens, s.batch, neighbour);
        queue(Loneliest{neighbour, picks, s.keep, s.tokens}, thread_a_token);
        greedy(queue, Farthest<L, CosineDistance>{tokens, {reciprocals}, state, nullptr}, picks, s.keep, s.tokens,
               s.batch, true);
    }
};

struct CdPruner : Selection {
    TextScratch of_text;

    CdPruner(Arena& arena, const tokexport_shape& s, const tokexport_cdpruner_params& p)
        : Selection(arena, s, s.keep), of_text(arena, s, p.text_length) {}

    static int check(const tokexport_shape&, const tokexport_cdpruner_params&) { return TOKEXPORT_OK; }

    static int check_signal(const void* text, const tokexport_cdpruner_params& p) {
        return check_signal_of(p.text_dtype, text);
    }

    template <class L>
    void select(Queue& queue, const tokexport_shape& s, const tokexport_cdpruner_params& p, const Rows<L>& tokens,
                const void* text) const {
        relevant(queue, tokens, reciprocals, text, p.text_length, p.text_dtype, p.inverted == 1, s.batch, of_text);
        greedy(queue, Determinantal<L>{tokens, of_text.relevance, reciprocals, state, table, s.keep}, picks, s.keep,
               s.tokens, s.batch, true, -1);
    }
};

struct Scope : Selection {
    float* saliency;

    Scope(Arena& arena, const tokexport_shape& s, const tokexport_scope_params&)
        : Selection(arena, s, s.tokens), saliency(arena.take<float>(s.batch, s.tokens)) {}

    static int check(const tokexport_shape&, const tokexport_scope_params&) { return TOKEXPORT_OK; }

    static int check_signal(const void* attention, const tokexport_scope_params& p) {
        return check_signal_of(p.attention_dtype, attention);
    }

    template <class L>
    void select(Queue& queue, const tokexport_shape& s, const tokexport_scope_params& p, const Rows<L>& tokens,
                const void* attention) const {
        given_weights(queue, s, p.attention_dtype, attention, p.alpha, saliency);
        assign(queue, tokens, reciprocals, Everyone{}, s.tokens, s.batch, nullptr, table);
        greedy(queue, Coverage{table, saliency, covered, state, s.tokens, s.batch}, picks, s.keep, s.tokens, s.batch,
               true, -1);
    }
};

template <class Method, class Params>
int run_method(const tokexport_shape* shape, const Params* params, const void* in, const void* signal,
               const tokexport_outputs& out, const tokexport_workspace& workspace, cudaStream_t stream) {
    if (params != nullptr)
        if (const int bad = Method::check_signal(signal, *params)) return bad;
    return enqueue<Method>(
        shape, params, in, out, workspace, stream, [&](auto layout, Queue& queue, const Method& method) {
            using L = decltype(layout);
            const tokexport_shape& s = *shape;
            const Rows<L> tokens = rows<L>(in, s);
            if (s.keep == s.tokens) return keep_all(queue, tokens, s.batch, out);
            queue(GreedyBegin{method.picks, s.keep, method.state, INFINITY, s.tokens, false},
                  dim3(ceil_div(s.tokens, kThreads), s.batch));
            queue(Norms<L>{tokens, nullptr, nullptr, nullptr, 0, method.reciprocals},
                  dim3(ceil_div(s.tokens, kWarps), s.batch));
            method.select(queue, s, *params, tokens, signal);
            keep_as_they_are(queue, Marked(method.state, kPicked, s.tokens), tokens, s.batch, s.keep, out);
        });
}

constexpr NoParams kNone{};

}  // namespace
}  // namespace tokexport

using namespace tokexport;

int tokexport_divprune_workspace(const tokexport_shape* shape, size_t* bytes) {
    return workspace_bytes<DivPrune>(shape, &kNone, bytes);
}

int tokexport_divprune(const tokexport_shape* shape, const void* tokens, tokexport_outputs outputs,
                       tokexport_workspace workspace, tokexport_stream stream) {
    return run_method<DivPrune>(shape, &kNone, tokens, nullptr, outputs, workspace, stream);
}

int tokexport_cdpruner_workspace(const tokexport_shape* shape, const tokexport_cdpruner_params* params,
                                 size_t* bytes) {
    return workspace_bytes<CdPruner>(shape, params, bytes);
}

int tokexport_cdpruner(const tokexport_shape* shape, const tokexport_cdpruner_params* params, const void* tokens,
                       const void* text, tokexport_outputs outputs, tokexport_workspace workspace,
                       tokexport_stream stream) {
    return run_method<CdPruner>(shape, params, tokens, text, outputs, workspace, stream);
}

int tokexport_scope_workspace(const tokexport_shape* shape, const tokexport_scope_params* params, size_t* bytes) {
    return workspace_bytes<Scope>(shape, params, bytes);
}

int tokexport_scope(const tokexport_shape* shape, const tokexport_scope_params* params, const void* tokens,
                    const void* attention, tokexport_outputs outputs, tokexport_workspace workspace,
                    tokexport_stream stream) {
    return run_method<Scope>(shape, params, tokens, attention, outputs, workspace, stream);
}
