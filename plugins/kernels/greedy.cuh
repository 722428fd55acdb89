// Greedy selection: pick the token of the best score, update every token's score by the pick, repeat.
//
// One launch a pick, many blocks: each block updates some rows and raises the next pick's key by an atomic maximum,
// which the next launch reads. A launch is the only barrier, so there is nothing to deadlock on any GPU, in a CUDA
// graph or out of it. What a *rule* adds is one function: the new score of one row, given the last pick.
#pragma once

#include "common.cuh"

namespace tokexport {

// Below every score: a token already picked.
constexpr float kPicked = -1.0f;

constexpr int kGreedyBlocks = 512;  // to a batch element; more rows than these have warps are looped over

// Before the first pick: no keys, state [B, N] at `value`. With `first`, token 0 is the first pick. Grid: (any, B).
struct GreedyBegin {
    Key* picks;
    int picked;
    float* state;
    float value;
    int count;
    bool first;

    __device__ void operator()() const {
        const int at = blockIdx.x * kThreads + threadIdx.x, step = gridDim.x * kThreads;
        const size_t batch = blockIdx.y;
        for (int i = at; i < picked; i += step) picks[batch * picked + i] = first && i == 0 ? make_key(0.0f, 0) : 0;
        for (int i = at; i < count; i += step) state[batch * count + i] = value;
    }
};

// The last pick as a rule sees it: which token, the how many-th, and the score it was picked for. Token and step are -1
// where the first pick is up to the rule.
struct Pick {
    int token;
    int step;
    float score;
};

// Updates all rows by pick number `step` and finds the next, if there is one. picks [B, picked]. Grid: (blocks, B).
template <class Rule>
struct GreedyStep {
    Rule rule;
    Key* picks;
    int picked;
    int count;
    int step;

    __device__ void operator()() const {
        const int batch = blockIdx.y;
        Key* mine = picks + static_cast<size_t>(batch) * picked;
        const Pick last = step < 0 ? Pick{-1, -1, 0.0f} : Pick{key_index(mine[step]), step, key_score(mine[step])};
        Key best = 0;
        for (int row = blockIdx.x * kWarps + warp(); row < count; row += gridDim.x * kWarps)
            best = larger(best, make_key(rule.update(batch, row, last), row));
        if (step + 1 < picked) block_raise(mine + step + 1, best);
    }
};

// Picks the tokens after number `first`, up to `picked` in all; with `finish`, rows are updated by the last pick too.
template <class Rule>
void greedy(Queue& queue, const Rule& rule, Key* picks, int picked, int count, int batch, bool finish, int first = 0) {
    const int rows = ceil_div(count, kWarps), blocks = rows < kGreedyBlocks ? rows : kGreedyBlocks;
    for (int step = first; step < picked - (finish ? 0 : 1); ++step)
        queue(GreedyStep<Rule>{rule, picks, picked, count, step}, dim3(blocks, batch));
}

}  // namespace tokexport
